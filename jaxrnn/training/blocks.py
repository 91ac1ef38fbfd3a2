"""Blocks: the batches of an epoch or an evaluation, in pieces that are each one XLA program."""

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

from jaxrnn.data.batches import epoch_indices
from jaxrnn.data.splits import Batch, Split
from jaxrnn.data.streams import Stream, equal_parts
from jaxrnn.training.sharding import own_part, put_examples

_STEPS_AT_ONCE = 64  # so that a progress bar moves, at less than a hundredth of the time


class Block(NamedTuple):
    """Examples on the devices and the rows of some batches; see :func:`train_block`."""

    examples: Split | Batch
    rows: Int[chex.Array, "steps batch"]
    mesh: Mesh | None
    sharded: bool = False


def blocks_of_split(
    split: Split, whole: np.ndarray, rest: np.ndarray, mesh: Mesh
) -> Iterator[Block]:
    """Cut the batches of a split, which is on the devices, into blocks of equal size if possible.

    Args:
      split: replicated over the mesh.
      whole: (steps, batch) positions.
      rest: those of the short last batch, which may be empty. All devices take all of it, as it may
        not divide among them.
      mesh: devices that share each whole batch.
    """
    start = 0
    for size in equal_parts(len(whole), _STEPS_AT_ONCE):
        yield Block(split, whole[start : start + size], mesh)
        start += size
    if len(rest):
        yield Block(split, rest[None], None)


def blocks_of_stream(
    stream: Stream, mesh: Mesh, *, epoch: int = 1, outputs: int | None = None
) -> Generator[Block, None, None]:
    """Read the blocks of a stream, epoch after epoch, while earlier ones are worked on.

    Args:
      stream: what to read; every process reads its devices' part of each batch.
      mesh: devices that share each batch.
      epoch: where to start, from 1.
      outputs: labels must be below; None to leave them unchecked.
    """
    sharded = stream.batch_size % mesh.size == 0
    own, devices = own_part(mesh, stream.batch_size) if sharded else (None, 1)
    place = partial(_place, mesh=mesh, sharded=sharded)
    with stream.blocks(
        epoch=epoch, place=place, own=own, devices=devices, outputs=outputs
    ) as blocks:
        yield from blocks


def shuffled_epochs(
    data: Split | Stream,
    mesh: Mesh,
    key: Key[Array, ""],
    *,
    batch_size: int,
    drop_remainder: bool,
    first: int = 1,
    outputs: int | None = None,
) -> Generator[Iterable[Block], None, None]:
    """Yield the blocks of each epoch from ``first`` on, endlessly.

    Args:
      data: a split that is replicated over the mesh, or a stream, which has its own key, batch size
        and remainder.
      mesh, outputs: see :func:`blocks_of_stream`.
      key: root of the order; that of an epoch is ``fold_in(key, epoch)``.
      batch_size, drop_remainder: see :func:`jaxrnn.train_epoch`.
      first: the first epoch, from 1.
    """
    if isinstance(data, Stream):
        stream = blocks_of_stream(data, mesh, epoch=first, outputs=outputs)
        with contextlib.closing(stream) as blocks:
            while True:
                yield itertools.islice(blocks, data.blocks_per_epoch)
    for epoch in itertools.count(first):
        order = _order(
            fold_in(key, epoch), len(data), batch_size=batch_size, drop_remainder=drop_remainder
        )
        whole, rest = jax.device_get(order)
        yield [*blocks_of_split(data, whole, rest, mesh)]


fold_in = jax.jit(jax.random.fold_in)
_order = jax.jit(epoch_indices, static_argnames=("size", "batch_size", "drop_remainder"))


def _place(batch: Batch, steps: int, whole: bool, *, mesh: Mesh, sharded: bool) -> Block:
    """Put a block, which was read in the order of its steps, on the devices."""
    sharded = sharded and whole
    arrays = put_examples(batch, mesh, sharded=sharded)
    share = arrays["places"].shape[0] // (mesh.size if sharded else 1)
    rows = np.arange(share, dtype=np.int32).reshape(steps, -1)
    return Block(arrays, rows, mesh if sharded else None, sharded)
