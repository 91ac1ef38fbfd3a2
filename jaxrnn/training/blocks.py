"""Blocks: several batches to train or evaluate on in one call of an XLA program."""

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator
from functools import partial
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


def blocks_of_split(
    split: Split, whole: np.ndarray, rest: np.ndarray, mesh: Mesh
) -> Iterator[Block]:
    """Group the batches of a split into blocks, of equal size if possible.

    Args:
      split: replicated over the mesh.
      whole: positions of the examples of each whole batch.
      rest: positions of the short last batch, which may be empty. Every device processes all of it,
        as it may not divide among them.
      mesh: devices that share each whole batch.
    """
    start = 0
    for size in equal_parts(len(whole), _STEPS_AT_ONCE):
        yield Block(split, whole[start : start + size], mesh)
        start += size
    if len(rest):
        yield Block(split, rest[None], None)


def blocks_of_stream(
    stream: Stream, mesh: Mesh | None, *, epoch: int = 1, outputs: int | None = None
) -> Generator[Block, None, None]:
    """Yield the blocks of a stream, epoch after epoch, reading ahead.

    Args:
      stream: every process reads its devices' part of each batch.
      mesh: devices that share each batch; None to leave the arrays on the host.
      epoch: the first epoch, from 1.
      outputs: upper bound of the labels, exclusive; None to leave them unchecked.
    """
    shared_by = mesh if mesh is not None and stream.batch_size % mesh.size == 0 else None
    own, devices = (None, 1) if shared_by is None else own_part(shared_by, stream.batch_size)
    put = partial(_put_block, mesh=mesh, shared_by=shared_by)
    with stream.blocks(put, epoch=epoch, own=own, devices=devices, outputs=outputs) as blocks:
        yield from blocks


class DataOrder(NamedTuple):
    """Key and sizes of the batches; ``examples`` is the number of examples in an epoch."""

    key: Key[Array, ""]
    batch_size: int
    drop_remainder: bool
    examples: int

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return -(-self.examples // self.batch_size)


def data_order(
    data: Split | Stream,
    key: Key[Array, ""] | int | None,
    batch_size: int,
    drop_remainder: bool,
) -> DataOrder:
    """Return the data order of a stream, which has its own, or of a split, from the arguments.

    Raises:
      ValueError: there is no key, or one for a stream; or ``batch_size`` doesn't fit the split.
    """
    if isinstance(data, Stream):
        if key is not None or data.key is None:
            raise ValueError("give the key of the data order to the stream: stream(…, key=key)")
        return DataOrder(data.key, data.batch_size, data.drop_remainder, data.examples_per_epoch)
    if key is None:
        raise ValueError("training on a split needs a key, which determines the data order")
    check_batch_size(batch_size, data)
    rest = len(data) % batch_size if drop_remainder else 0
    return DataOrder(as_key(key), batch_size, drop_remainder, len(data) - rest)


def shuffled_epochs(
    data: Split | Stream,
    mesh: Mesh,
    order: DataOrder,
    *,
    first: int = 1,
    outputs: int | None = None,
) -> Generator[Iterable[Block], None, None]:
    """Yield the blocks of each epoch, endlessly; those of a split are a list.

    Args:
      data: a split that is replicated over the mesh, or a stream.
      mesh, outputs: see :func:`blocks_of_stream`.
      order: from :func:`data_order`; the key of an epoch is ``fold_in(order.key, epoch)``.
      first: the first epoch, from 1.
    """
    if isinstance(data, Stream):
        stream = blocks_of_stream(data, mesh, epoch=first, outputs=outputs)
        with contextlib.closing(stream) as blocks:
            while True:
                yield itertools.islice(blocks, data.blocks_per_epoch)
    sizes = {"batch_size": order.batch_size, "drop_remainder": order.drop_remainder}
    for epoch in itertools.count(first):
        whole, rest = jax.device_get(_indices(fold_in(order.key, epoch), len(data), **sizes))
        yield [*blocks_of_split(data, whole, rest, mesh)]


fold_in = jax.jit(jax.random.fold_in)
_indices = jax.jit(epoch_indices, static_argnames=("size", "batch_size", "drop_remainder"))


def _put_block(
    batch: Batch, steps: int, whole: bool, *, mesh: Mesh | None, shared_by: Mesh | None
) -> Block:
    """Put a block that was read in the order of its steps on the devices."""
    shared_by = shared_by if whole else None  # the short last batch may not divide
    arrays = batch if mesh is None else put_examples(batch, mesh, sharded=shared_by is not None)
    share = arrays["places"].shape[0] // (1 if shared_by is None else shared_by.size)
    rows = np.arange(share, dtype=np.int32).reshape(steps, -1)
    return Block(arrays, rows, shared_by, shared_by is not None)
