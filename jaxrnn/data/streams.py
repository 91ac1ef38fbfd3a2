"""Streams: batches read while earlier ones are trained on, for data of any size."""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxrnn.data.batches import as_key, check_batch_size, check_values
from jaxrnn.data.readable import Readable, readable
from jaxrnn.data.reading import on_cpu, read_ahead
from jaxrnn.data.splits import Batch, Split

_STEPS_AT_ONCE = 32  # batches that are read, moved and trained on together,
_BYTES_AT_ONCE = 2**24  # or as many as fit, at least one
_ENDLESS = 2**40  # blocks, as Grain requires a length


@dataclass(frozen=True)
class Stream:
    """Batches of a source in random order, pass after pass; created by :func:`stream`.

    Iterating yields single batches of numpy arrays: endlessly with a key, else one pass in file
    order. The iterator is Grain's: its ``get_state()`` returns its position as JSON, and after
    ``set_state`` another iterator continues with the next batch.

    ``len`` is the number of steps that :func:`jaxrnn.fit` counts as one epoch.
    """

    source: Readable
    batch_size: int
    key: jax.Array | None
    drop_remainder: bool
    steps_per_epoch: int | None
    workers: int

    def __len__(self) -> int:
        return self._whole + (self.remainder > 0)

    @property
    def _whole(self) -> int:
        """Number of whole batches in one epoch."""
        return self.steps_per_epoch or len(self.source) // self.batch_size

    @property
    def remainder(self) -> int:
        """Size of the short batch at the end of each pass; 0 for none."""
        return 0 if self.drop_remainder else len(self.source) % self.batch_size

    @property
    def examples_per_epoch(self) -> int:
        """Number of examples in one epoch of :func:`jaxrnn.fit`."""
        return self._whole * self.batch_size + self.remainder

    @cached_property
    def block_sizes(self) -> list[int]:
        """The number of batches in each block of an epoch; 0 for the short batch at its end."""
        example = self.source.read([0])
        size = self.batch_size * sum(np.asarray(array).nbytes for array in example.values())
        most = max(1, min(_STEPS_AT_ONCE, _BYTES_AT_ONCE // size))
        return equal_parts(self._whole, most) + [0] * (self.remainder > 0)

    def __iter__(self) -> Any:
        def batch_of(block: dict[str, Any]) -> Batch:
            return {name: array for name, array in block["batch"].items() if name != "places"}

        single = _Blocks(self, [1] * self._whole + [0] * (self.remainder > 0))
        return iter(read_ahead(single, self.workers).map(batch_of))

    @contextlib.contextmanager
    def blocks(
        self, put: Callable[[Batch, int, bool], Any], *, epoch: int = 1, **options: Any
    ) -> Iterator[Any]:
        """Iterate over blocks of batches, which Grain reads ahead until the ``with`` block ends.

        Args:
          put: called with the examples of each block, its number of steps, and whether its
            batches are whole; ``places`` are the positions of the examples in the source.
          epoch: the first epoch to read, counted from 1.
          options: ``own``, the slice of each whole batch that this process reads, by default
            all of it; ``devices``, the number of those that share this part, whose examples are
            contiguous; and ``outputs``, the exclusive upper bound of the labels, to check them.
        """
        blocks = _Blocks(self, self.block_sizes, **options)
        start = (epoch - 1) * len(self.block_sizes)
        with contextlib.closing(iter(read_ahead(blocks, self.workers, start, put))) as iterator:
            yield iterator


@dataclass(eq=False)
class _Blocks:
    """Random access to the blocks of a stream, of ``sizes`` as in ``Stream.block_sizes``.

    A block is a ``batch``, its number of ``steps``, and whether its batches are ``whole``: the
    short batch at the end of a pass is a block of its own.
    """

    stream: Stream
    sizes: list[int]
    own: slice | None = None
    devices: int = 1
    outputs: int | None = None
    _latest: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self.sizes) if self.stream.key is None else _ENDLESS

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, block = divmod(int(index), len(self.sizes))
        if steps := self.sizes[block]:
            first = epoch * sum(self.sizes) + sum(self.sizes[:block])
            rows = np.stack([self._batch(step) for step in range(first, first + steps)])
            places = rows.reshape(steps, self.devices, -1).swapaxes(0, 1).reshape(-1)
        else:
            places = self._order(epoch)[-self.stream.remainder :]
        batch = dict(self.stream.source.read(places))
        if self.outputs is not None:
            check_values(batch, self.outputs, places=places)
        return {"batch": {**batch, "places": places}, "steps": steps or 1, "whole": steps > 0}

    def _batch(self, step: int) -> np.ndarray:
        """Return the positions of a step's own examples; steps are counted over all passes."""
        size = self.stream.batch_size
        epoch, step = divmod(step, len(self.stream.source) // size)
        return self._order(epoch)[step * size :][:size][self.own or slice(None)]

    def _order(self, index: int) -> np.ndarray:
        """Return the order of a pass; the latest is cached, as blocks are read in sequence."""
        if self._latest[0] != index:
            order = np.arange(len(self.stream.source), dtype=np.int32)
            if self.stream.key is not None:
                with on_cpu():
                    key = jax.random.fold_in(self.stream.key, index + 1)
                    order = np.asarray(jax.random.permutation(key, len(order)))
            self._latest = index, order
        return self._latest[1]


def equal_parts(steps: int, most: int) -> list[int]:
    """Divide steps into parts of at most ``most``, of equal size if possible.

    Each size requires a compilation.

    >>> equal_parts(320, 64), equal_parts(7, 3)
    ([64, 64, 64, 64, 64], [3, 2, 2])
    """
    fewest = -(-steps // most)
    equal = [count for count in range(fewest, 2 * fewest) if steps % count == 0]
    return [len(part) for part in np.array_split(range(steps), equal[0] if equal else fewest)]


def stream(
    source: Readable | Split | Iterable[Any], *, batch_size: int,
    key: jax.Array | int | None = None, drop_remainder: bool = False,
    steps_per_epoch: int | None = None, workers: int = 0,
) -> Stream:  # fmt: skip
    """Stream batches from disk, with Grain, for :func:`jaxrnn.fit` or your own loop.

    For the same key, the batches are those of :func:`jaxrnn.batches` and ``fit`` over the same
    examples in memory: pass p is in the order of ``fold_in(key, p)``. Memory holds the order (4
    bytes per example, about 40 while it is computed) and a few blocks of batches, each at most
    16 MiB or one batch. In ``fit``, each process reads only its part of each batch.

    Args:
      source: a :class:`jaxrnn.Source`, a :class:`jaxrnn.Split`, or anything with ``__len__`` and
        ``read(indices) -> batch``; arrays (inputs, labels); a sequence of examples (inputs, label)
        or dicts of them, such as a torch ``Dataset`` or ``Subset``; or an iterable of such examples
        or batches, which is read into memory. Floating-point labels are targets.
      batch_size: examples per batch, over all processes.
      key: root of the order; iteration is then endless. None for one pass in file order, to
        evaluate on.
      drop_remainder: drop the short batch that a pass may end with.
      steps_per_epoch: number of batches that ``fit`` counts as an epoch, by default one pass; the
        next epoch continues with the next batch. With augmentation it should not exceed a pass,
        since each example is warped in the same way throughout an epoch.
      workers: number of reader processes; by default, a thread reads. Each imports jaxrnn and the
        main module, which must therefore be protected by ``if __name__ == "__main__"``.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples, or it leaves a short
        batch where ``steps_per_epoch`` is given.

    >>> from jaxrnn import Source
    >>> digits = stream(Source(split="test"), batch_size=150, key=jax.random.key(0))
    >>> iterator = iter(digits)
    >>> next(iterator)["inputs"].shape, iterator.get_state(), len(digits)
    ((150, 28, 28), {'next_index': 1}, 67)
    """
    source, batch_size = readable(source), operator.index(batch_size)
    check_batch_size(batch_size, source)
    key = None if key is None else as_key(key)
    made = Stream(source, batch_size, key, drop_remainder, steps_per_epoch, workers)
    if steps_per_epoch and made.remainder:
        raise ValueError(
            f"steps_per_epoch requires batches of equal size, but {len(source)} examples leave a "
            f"batch of {made.remainder}; use drop_remainder (--drop-remainder)"
        )
    return made
