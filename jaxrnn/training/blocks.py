"""Blocks: several batches to train or evaluate on in one call of an XLA program."""

import contextlib
import itertools
from collections.abc import Generator, Iterable
from typing import NamedTuple

import chex
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from jaxrnn.data.batches import as_key, check_batch_size, epoch_indices
from jaxrnn.data.splits import Batch, Split, arrays_of
from jaxrnn.data.streams import Stream, equal_parts
from jaxrnn.training.sharding import own_part, put_examples
from jaxrnn.training.state import TrainState

_STEPS_AT_ONCE = 64  # so that the progress bar moves; the calls cost less than 1 % of the time
_STATES = 2**24  # float32 numbers: 64 MiB


class Block(NamedTuple):
    """Examples on the devices, and the rows of each batch; see :func:`train_block`."""

    examples: Split | Batch
    rows: Int[chex.Array, "steps batch"]
    mesh: Mesh | None
    sharded: bool = False


def data_order(
    data: Split | Stream, key: Key[Array, ""] | int | None, batch_size: int, drop_remainder: bool
) -> tuple[Stream, Key[Array, ""]]:
    """Return the stream that defines the order of training (of a split, a new one) and its key.

    Raises:
      ValueError: there is no key, or one for a stream; or ``batch_size`` doesn't fit the split.
    """
    if isinstance(data, Stream):
        if key is not None or data.key is None:
            raise ValueError("give the key of the data order to the stream: stream(…, key=key)")
        return data, data.key
    if key is None:
        raise ValueError("training on a split needs a key, which determines the data order")
    check_batch_size(batch_size, data)
    key = as_key(key)
    return Stream(data, batch_size, key, drop_remainder, steps_per_epoch=None, workers=0), key


def shuffled_epochs(
    data: Split | Stream, order: Stream, mesh: Mesh, *, first: int, outputs: int
) -> Generator[Iterable[Block], None, None]:
    """Yield the blocks of each epoch from ``first`` on, endlessly; for a split they are a list.

    The split is replicated over the mesh; ``order`` is that of :func:`data_order`, and ``outputs``
    the exclusive upper bound of a stream's labels.
    """
    if isinstance(data, Stream):
        with contextlib.closing(blocks_of_stream(data, mesh, first, outputs)) as blocks:
            while True:
                yield itertools.islice(blocks, data.blocks_per_epoch)
    sizes = {"batch_size": order.batch_size, "drop_remainder": order.drop_remainder}
    for epoch in itertools.count(first):
        whole, rest = jax.device_get(_indices(fold_in(order.key, epoch), len(data), **sizes))
        ends = np.cumsum(equal_parts(len(whole), _STEPS_AT_ONCE))
        yield blocks_of_split(data, np.split(whole, ends[:-1]), rest, mesh)


fold_in = jax.jit(jax.random.fold_in)
_indices = jax.jit(epoch_indices, static_argnames=("size", "batch_size", "drop_remainder"))


def blocks_in_order(
    state: TrainState,
    examples: Split | Stream,
    batch_size: int | None,
    mesh: Mesh | None,
    outputs: int | None = None,
) -> Generator[Block, None, None]:
    """Yield the blocks to evaluate on: for a split, one of all whole batches, one for the rest."""
    if isinstance(examples, Stream):
        if not examples.is_whole:
            raise ValueError(
                "a stream to evaluate on must be one pass over all examples: leave out "
                "steps_per_epoch and drop_remainder"
            )
        blocks = blocks_of_stream(examples, mesh, outputs=outputs)
        yield from itertools.islice(blocks, examples.blocks_per_epoch)
        return
    if not len(examples):
        raise ValueError("there are no examples to evaluate")
    devices = 1 if mesh is None else mesh.size
    size = -(-bounded_batch_size(state, examples, batch_size) // devices) * devices  # equal shares
    order = np.arange(len(examples), dtype=np.int32)
    whole = len(examples) // size * size
    yield from blocks_of_split(examples, [order[:whole].reshape(-1, size)], order[whole:], mesh)


def bounded_batch_size(state: TrainState, split: Split, batch_size: int | None) -> int:
    """Return the batch size or, by default, one for which the states of a layer fit in 64 MiB."""
    if batch_size is None:
        leaves = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim]
        width = max((leaf.shape[-1] for leaf in leaves), default=1)
        numbers = max(1, width * arrays_of(split)["inputs"].shape[1])
        return max(1, min(1000, _STATES // numbers))
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1; got {batch_size}")
    return batch_size


def blocks_of_split(
    split: Split, pieces: Iterable[chex.Array], rest: chex.Array, mesh: Mesh | None
) -> list[Block]:
    """Return a block for each piece, rows of whole batches, and one for the short last batch.

    Every device processes all of the latter, as its size may not be divisible by their number.
    """
    blocks = [Block(split, rows, mesh) for rows in pieces if len(rows)]
    return [*blocks, Block(split, rest[None], None)] if len(rest) else blocks


def blocks_of_stream(
    stream: Stream, mesh: Mesh | None, epoch: int = 1, outputs: int | None = None
) -> Generator[Block, None, None]:
    """Yield the blocks of a stream, epoch after epoch, reading ahead.

    Every process reads its devices' part of each batch; without a mesh, arrays stay on the host.
    """
    divides = mesh is not None and stream.batch_size % mesh.size == 0
    shared_by = mesh if divides else None
    own, devices = (None, 1) if shared_by is None else own_part(shared_by, stream.batch_size)

    def put(batch: Batch, steps: int, whole: bool) -> Block:
        """Put a block, which was read in the order of its steps, on the devices."""
        over = shared_by if whole else None  # the short last batch may not be divisible
        examples = batch if mesh is None else put_examples(batch, mesh, sharded=over is not None)
        share = len(examples["places"]) // (1 if over is None else over.size)
        rows = np.arange(share, dtype=np.int32).reshape(steps, -1)
        return Block(examples, rows, over, over is not None)

    with stream.blocks(put, epoch=epoch, own=own, devices=devices, outputs=outputs) as blocks:
        yield from blocks
