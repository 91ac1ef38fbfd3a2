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
from jaxrnn.data.splits import Batch, Split
from jaxrnn.data.streams import Stream, equal_parts
from jaxrnn.training.sharding import own_part, put_examples

_STEPS_AT_ONCE = 64  # so that the progress bar moves; the calls cost less than 1 % of the time


class Block(NamedTuple):
    """Examples on the devices, and the rows of each batch; see :func:`train_block`."""

    examples: Split | Batch
    rows: Int[chex.Array, "steps batch"]
    mesh: Mesh | None
    sharded: bool = False


def data_order(
    data: Split | Stream, key: Key[Array, ""] | int | None, batch_size: int, drop_remainder: bool
) -> tuple[Stream, Key[Array, ""]]:
    """Return the stream whose order training follows, the data or one of the split, and its key.

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
    """Yield the blocks of each epoch from ``first`` on, endlessly; those of a split are a list.

    The split is replicated over the mesh; ``order`` is that of :func:`data_order`, and ``outputs``
    the upper bound of a stream's labels, exclusive.
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


def blocks_of_split(
    split: Split, pieces: Iterable[np.ndarray], rest: np.ndarray, mesh: Mesh | None
) -> list[Block]:
    """Return a block for each piece, rows of whole batches, and one for the short last batch.

    Every device processes all of the latter, as it may not divide among them.
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

    def place(batch: Batch, steps: int, whole: bool) -> Block:
        """Put a block, which was read in the order of its steps, on the devices."""
        over = shared_by if whole else None  # the short last batch may not divide
        examples = batch if mesh is None else put_examples(batch, mesh, sharded=over is not None)
        share = len(examples["places"]) // (1 if over is None else over.size)
        rows = np.arange(share, dtype=np.int32).reshape(steps, -1)
        return Block(examples, rows, over, over is not None)

    options = {"own": own, "devices": devices, "outputs": outputs}
    with stream.blocks(epoch=epoch, place=place, **options) as blocks:
        yield from blocks
