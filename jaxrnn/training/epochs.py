"""Epochs as blocks: several steps as one XLA program, on a split or on data of a stream."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

import chex
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from jaxrnn.data.batches import as_key, check_batch_size, epoch_indices, prepare
from jaxrnn.data.splits import Batch, Split, as_split, take
from jaxrnn.data.streams import Stream, equal_parts
from jaxrnn.training.forward import keys_of
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import over_devices, own_part, put_examples
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import StepOptions, step

Augment: TypeAlias = Callable[[Key[Array, ""], Float[Array, "time features"]], chex.Array]
Rows: TypeAlias = Int[chex.Array, "steps batch"]

fold_in = jax.jit(jax.random.fold_in)
_indices = jax.jit(epoch_indices, static_argnames=("size", "batch_size", "drop_remainder"))

_STEPS_AT_ONCE = 64  # so that the progress bar moves; the calls cost less than 1 % of the time
_WARP = 0x77617270  # "warp"


class Block(NamedTuple):
    """Examples on the devices, and the rows of each batch; see :func:`train_block`."""

    examples: Split | Batch
    rows: Rows
    mesh: Mesh | None


def data_order(
    data: Split | Stream, key: Key[Array, ""] | int | None, batch_size: int, drop_remainder: bool
) -> Stream:
    """Return the stream that defines the data order and holds its key; a split gets a new one.

    Raises:
      ValueError: the key is missing, or is given with a stream; or ``batch_size`` doesn't fit the
        split.
    """
    if isinstance(data, Stream):
        if key is not None or data.key is None:
            raise ValueError("give the key of the data order to the stream: stream(…, key=key)")
        return data
    if key is None:
        raise ValueError("training on a split needs a key, which determines the data order")
    check_batch_size(batch_size, data)
    return Stream(data, batch_size, as_key(key), drop_remainder, steps_per_epoch=None, workers=0)


def shuffled_epochs(
    data: Split | Stream, order: Stream, mesh: Mesh, *, first: int, outputs: int
) -> Generator[Iterable[Block], None, None]:
    """Yield the blocks of each epoch from ``first`` on, endlessly; for a split they are a list.

    ``order`` is that of :func:`data_order`; ``outputs`` bounds the labels of a stream.
    """
    if isinstance(data, Stream):
        with contextlib.closing(blocks_of_stream(data, mesh, first, outputs)) as blocks:
            while True:
                yield itertools.islice(blocks, len(data.block_sizes))
    sizes = {"batch_size": order.batch_size, "drop_remainder": order.drop_remainder}
    for epoch in itertools.count(first):
        whole, rest = jax.device_get(_indices(fold_in(order.key, epoch), len(data), **sizes))
        ends = np.cumsum(equal_parts(len(whole), _STEPS_AT_ONCE))
        yield blocks_of_split(data, np.split(whole, ends[:-1]), rest, mesh)


def blocks_in_order(
    examples: Split | Stream, batch_size: int, mesh: Mesh | None, outputs: int | None = None
) -> Generator[Block, None, None]:
    """Yield the blocks to evaluate on: for a split, one of all whole batches, one for the rest."""
    if isinstance(examples, Stream):
        if examples.steps_per_epoch or examples.drop_remainder:
            raise ValueError(
                "a stream to evaluate on must be one pass over all examples: leave out "
                "steps_per_epoch and drop_remainder"
            )
        blocks = blocks_of_stream(examples, mesh, outputs=outputs)
        yield from itertools.islice(blocks, len(examples.block_sizes))
        return
    if not len(examples):
        raise ValueError("there are no examples to evaluate")
    devices = 1 if mesh is None else mesh.size
    size = -(-batch_size // devices) * devices  # equal shares
    whole, rest = np.split(np.arange(len(examples), dtype=np.int32), [len(examples) // size * size])
    yield from blocks_of_split(examples, [whole.reshape(-1, size)], rest, mesh)


def blocks_of_split(
    split: Split, pieces: Iterable[chex.Array], rest: chex.Array, mesh: Mesh | None
) -> list[Block]:
    """Return a block for each piece, rows of whole batches, and one for the short last batch.

    Every device computes all of the short batch, whose size they may not divide.
    """
    blocks = [Block(split, rows, mesh) for rows in pieces if len(rows)]
    return [*blocks, Block(split, rest[None], None)] if len(rest) else blocks


def blocks_of_stream(
    stream: Stream, mesh: Mesh | None, epoch: int = 1, outputs: int | None = None
) -> Generator[Block, None, None]:
    """Yield the blocks of a stream, epoch after epoch, reading ahead.

    Every process reads its devices' part of each batch; without a mesh, arrays stay on the host.
    """
    shared_by = mesh if mesh is not None and stream.batch_size % mesh.size == 0 else None
    own, devices = (None, 1) if shared_by is None else own_part(shared_by, stream.batch_size)

    def put(batch: Batch, steps: int, whole: bool) -> Block:
        over = shared_by if whole else None  # the short last batch may not be divisible
        examples = batch if mesh is None else put_examples(batch, mesh, sharded=over is not None)
        share = len(examples["places"]) // (1 if over is None else over.size)
        rows = np.arange(share, dtype=np.int32).reshape(steps, -1)
        return Block(examples, rows, over)

    with stream.blocks(put, epoch=epoch, own=own, devices=devices, outputs=outputs) as blocks:
        yield from blocks


@partial(jax.jit, static_argnames=("augment", "mesh", "options"))
def train_block(
    state: TrainState,
    examples: Split | Batch,
    rows: Rows,
    key: Key[Array, ""],
    mesh: Mesh | None = None,
    *,
    augment: Augment | None = None,
    options: StepOptions = StepOptions(),  # noqa: B008
) -> tuple[TrainState, Metrics]:
    """Take several steps as one XLA program.

    Pure. Consecutive blocks give the same bits as one block of all their steps. Arguments that are
    not listed are those of :func:`train_epoch`.

    Args:
      examples: arrays of n examples, already on the devices. A batch may have ``places`` (n,), the
        positions in the source that they were read from; by default 0 … n - 1.
      rows: indices of the examples of each step.
      key: PRNG key of this epoch, for augmentation and dropout.
      mesh: devices that share each batch. A split is replicated over them; a batch, a dict, is
        divided, and ``rows`` are then (steps, share) indices into the part of each device.

    Returns:
      The state after these steps, and the :class:`jaxrnn.Metrics` of each, (steps,) arrays.
    """

    def block(
        state: TrainState, examples: Split | Batch, rows: Rows, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        places = examples.get("places") if isinstance(examples, dict) else None

        def body(state: TrainState, row: Int[Array, " batch"]) -> tuple[TrainState, Metrics]:
            batch = prepare(take(examples, row))
            if augment:
                place = row if places is None else places[row]
                batch["inputs"] = augmented(augment, batch["inputs"], place, key)
            return step(state, batch, key, mesh, options)

        return jax.lax.scan(body, state, rows)

    return over_devices(block, state, examples, rows, key, mesh=mesh)


@partial(jax.jit, static_argnames=("batch_size", "drop_remainder", "augment", "mesh", "options"))
def train_epoch(
    state: TrainState,
    split: Split,
    key: Key[Array, ""],
    *,
    batch_size: int,
    drop_remainder: bool = False,
    augment: Augment | None = None,
    mesh: Mesh | None = None,
    options: StepOptions = StepOptions(),  # noqa: B008
) -> tuple[TrainState, Metrics]:
    """Train for one pass over a split in random order, as one XLA program.

    Pure, and to float rounding the same as :func:`jaxrnn.train_step` over :func:`jaxrnn.batches` of
    the same key, on any number of devices.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      split: put it on the device first (``jax.device_put``), or every call copies it there.
      key: PRNG key of this epoch, for the order, augmentation and, as in ``train_step``, dropout.
      batch_size: examples per step.
      drop_remainder: leave out the examples that don't fill a batch, instead of taking a last step
        on a smaller one.
      augment: function of a key and the inputs of one example, (time, features) floats, that
        returns what to train on instead, such as :meth:`jaxrnn.WarpConfig.build` gives.
      mesh: devices that share each batch; see :func:`jaxrnn.evaluate`.
      options: gradient accumulation, truncation and rematerialization, see :class:`StepOptions`.

    Returns:
      The state after the epoch, and the :class:`jaxrnn.Metrics` of all steps, each measured before
      its update.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples.
    """
    split, key = as_split(split), as_key(key)
    check_batch_size(batch_size, split)
    whole, rest = epoch_indices(
        key, len(split), batch_size=batch_size, drop_remainder=drop_remainder
    )
    total = Metrics.zero()
    for examples, rows, shared_by in blocks_of_split(split, [whole], rest, mesh):
        state, metrics = train_block(
            state, examples, rows, key, shared_by, augment=augment, options=options
        )
        total += jax.tree.map(lambda sums: sums.sum(0), metrics)
    return state, total


def augmented(
    augment: Augment,
    inputs: Float[Array, "batch time features"],
    places: Int[Array, " batch"],
    key: Key[Array, ""],
) -> Float[Array, "batch time features"]:
    """Augment each example with a key derived from the epoch's and its place in the source."""
    # Unlike any key that jax.random.permutation splits off the epoch's key for the order.
    keys = keys_of(jax.random.fold_in(key, _WARP), places)
    return jax.vmap(augment)(keys, inputs).astype(inputs.dtype)
