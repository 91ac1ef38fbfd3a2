"""Streams: batches read while the ones before them are trained on, for data of any size."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh

from jaxrnn.data import Batch, Split, check_batch_size, take
from jaxrnn.parallel import block_sharding, from_own_rows, own_rows

_STEPS_AT_ONCE = 32  # batches that are read, moved and trained on together,
_BYTES_AT_ONCE = 2**24  # or as many as fit, at least one
_ENDLESS = 2**40  # elements; Grain wants a length


class Readable(Protocol):
    """What can be streamed: :class:`jaxrnn.Source`, or what has the same two methods."""

    def __len__(self) -> int:
        """How many examples there are."""

    def read(self, indices: Any) -> Batch:
        """The examples at these places, in this order."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Batches of a source in random order, pass after pass; made by :func:`stream`.

    Iterating gives single batches as numpy arrays, endlessly where there is a key, else one pass in
    file order. The iterator is Grain's: its ``get_state()`` is JSON that says where it is, and
    after ``set_state`` another one goes on with the very next batch.

    ``len`` is the number of steps that :func:`jaxrnn.fit` counts as one epoch.
    """

    source: Readable
    batch_size: int
    key: jax.Array | None
    drop_remainder: bool
    steps_per_epoch: int | None
    workers: int

    def __len__(self) -> int:
        return self.steps_per_epoch or self._whole + (self._remainder > 0)

    @property
    def examples_per_epoch(self) -> int:
        """Trained on in one epoch of :func:`jaxrnn.fit`."""
        if self.steps_per_epoch:
            return self.steps_per_epoch * self.batch_size
        return self._whole * self.batch_size + self._remainder

    @property
    def _whole(self) -> int:
        """Whole batches in one pass."""
        return len(self.source) // self.batch_size

    @property
    def _remainder(self) -> int:
        return 0 if self.drop_remainder else len(self.source) % self.batch_size

    def __iter__(self) -> Any:
        elements = _Elements(self, [1] * (self.steps_per_epoch or self._whole))
        return iter(_read_ahead(elements, self.workers).map(_only_batch))

    def blocks(self, mesh: Mesh, *, epoch: int = 1, classes: int | None = None) -> Any:
        """Blocks of batches on the devices of a mesh, for :func:`jaxrnn.training.train_block`.

        A block is a batch whose arrays have a leading axis of steps, and ``places`` (steps, batch),
        where each example is in the source. A short last batch is a block of its own. Every process
        reads its devices' part of each batch, and all of a batch that does not divide among them.

        Args:
          mesh: from :func:`jaxrnn.parallel.batch_mesh`.
          epoch: where to start, from 1.
          classes: labels are below it, or reading raises ``ValueError``.

        Returns:
          A Grain iterator, to be closed; it is the blocks of one epoch after those of another,
          :meth:`blocks_per_epoch` each.
        """
        rows = own_rows(mesh, self.batch_size) if self.is_divided_by(mesh) else None
        elements = _Elements(self, self._block_sizes(), rows, classes)
        place = partial(_place, mesh=mesh)
        return iter(_read_ahead(elements, self.workers, (epoch - 1) * elements.per_epoch, place))

    @property
    def blocks_per_epoch(self) -> int:
        """How many blocks are one epoch."""
        return len(self._block_sizes()) + (self._remainder > 0)

    def check_whole(self) -> None:
        """Raise ``ValueError`` unless an epoch is one pass over all examples."""
        if self.steps_per_epoch or self.drop_remainder:
            raise ValueError(
                "a stream to evaluate on is one pass over all examples: without steps_per_epoch "
                "and drop_remainder"
            )

    def is_divided_by(self, mesh: Mesh) -> bool:
        """Whether every device gets an equal part of each whole batch; or each gets all of it."""
        return self.batch_size % mesh.size == 0

    def block_shapes(self, mesh: Mesh) -> Iterator[Batch]:
        """The shapes and shardings of the blocks of an epoch, each once, to compile for."""
        example = self.source.read([0])
        example["places"] = np.zeros(1, np.int32)
        whole = {
            (steps, self.batch_size, self.is_divided_by(mesh)) for steps in self._block_sizes()
        }
        for steps, size, divided in [
            *whole,
            *([(1, self._remainder, False)] * (self._remainder > 0)),
        ]:
            sharding = block_sharding(mesh, divided=divided)
            yield {
                name: jax.ShapeDtypeStruct(
                    (steps, size, *np.shape(array)[1:]), array.dtype, sharding=sharding
                )
                for name, array in example.items()
            }

    def _block_sizes(self) -> list[int]:
        steps = self.steps_per_epoch or self._whole
        example = self.source.read([0])
        size = self.batch_size * sum(np.asarray(array).nbytes for array in example.values())
        fewest = -(-steps // max(1, min(_STEPS_AT_ONCE, _BYTES_AT_ONCE // size)))
        # Equal blocks, if there are such: each other size is another program to compile.
        equal = [count for count in range(fewest, 2 * fewest) if steps % count == 0]
        return [len(some) for some in np.array_split(range(steps), equal[0] if equal else fewest)]


def stream(
    source: Readable | Split,
    *,
    batch_size: int,
    key: jax.Array | None = None,
    drop_remainder: bool = False,
    steps_per_epoch: int | None = None,
    workers: int = 0,
) -> Stream:
    """Batches for :func:`jaxrnn.fit` or a loop of your own, read from disk by Grain as they come.

    Of an equal key, the batches are those of :func:`jaxrnn.batches` and ``fit`` over the same
    examples in memory: pass p is in the order of ``fold_in(key, p)``. Held in memory are the
    source's index, the order (4 bytes an example, and some 40 while it is made) and a few blocks of
    batches, each of 16 MiB at most or one batch.

    A loop of your own over it, ``for batch in …``, does not end where there is a key; take
    ``itertools.islice(batches, len(batches))`` of it. It gives whole batches, in every process;
    ``fit`` has each process read its part.

    Args:
      source: a :class:`jaxrnn.Source`, a :class:`jaxrnn.Split`, or anything with ``__len__`` and
        ``read(indices) -> batch``.
      batch_size: examples in a batch, of all processes together.
      key: root of the order; None for one pass in file order, to evaluate on.
      drop_remainder: whole batches only; otherwise a pass ends with the short batch left over.
      steps_per_epoch: batches that ``fit`` counts as an epoch, to evaluate and to save after; a
        pass by default. The next epoch goes on with the next batch. Needs batches of one size; and
        a pass or less where inputs are augmented, as an epoch does that to an example in one way.
      workers: processes that read, each importing jaxrnn for itself, and the main module, which
        therefore keeps what it does under ``if __name__ == "__main__"``; by default a thread reads.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples, ``steps_per_epoch`` is
        below 1 or there is a short batch beside it, or ``workers`` is negative.

    >>> from jaxrnn import Source
    >>> digits = stream(Source(split="test"), batch_size=150, key=jax.random.key(0))
    >>> iterator = iter(digits)
    >>> next(iterator)["inputs"].shape, iterator.get_state(), len(digits)
    ((150, 28, 28), {'next_index': 1}, 67)
    """
    if isinstance(source, Split):
        source = _InMemory(jax.device_get(source))
    check_batch_size(batch_size, source)
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch must be at least 1; got {steps_per_epoch}")
    if steps_per_epoch is not None and not drop_remainder and len(source) % batch_size:
        raise ValueError(
            f"steps_per_epoch counts batches of one size, and {len(source)} examples leave a "
            f"batch of {len(source) % batch_size}; use drop_remainder=True"
        )
    if workers < 0:
        raise ValueError(f"workers must be at least 0; got {workers}")
    if key is not None and not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return Stream(source, batch_size, key, drop_remainder, steps_per_epoch, workers)


@dataclasses.dataclass(frozen=True)
class _InMemory:
    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def read(self, indices: Any) -> Batch:
        return take(self.split, np.asarray(indices))


class _Elements:
    """Random access to what Grain reads: element i is a block of batches, on the host."""

    def __init__(
        self,
        stream: Stream,
        block_sizes: list[int],
        rows: slice | None = None,
        classes: int | None = None,
    ) -> None:
        self._source, self._batch_size = stream.source, stream.batch_size
        self._steps, self._remainder = stream._whole, stream._remainder
        self._key = None if stream.key is None else np.asarray(jax.random.key_data(stream.key))
        self._impl = None if stream.key is None else str(jax.random.key_impl(stream.key))
        self._starts = [0, *np.cumsum(block_sizes).tolist()]
        self.per_epoch = len(block_sizes) + (self._remainder > 0)
        self._rows, self._divided = rows or slice(None), rows is not None
        self._classes = classes
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.per_epoch if self._key is None else _ENDLESS

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_orders": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
        if multiprocessing.parent_process() is not None:  # a worker: accelerators are not for it
            jax.config.update("jax_platforms", "cpu")

    def __getitem__(self, index: int) -> Batch:
        epoch, block = divmod(int(index), self.per_epoch)
        divided = block < len(self._starts) - 1
        if divided:
            first, last = (epoch * self._starts[-1] + self._starts[block + i] for i in (0, 1))
            places = np.stack([self._batch(step)[self._rows] for step in range(first, last)])
            self._forget_before(first // self._steps)
        else:  # the short last batch: all of it for everyone
            places = self._places(epoch, self._steps * self._batch_size, len(self._source))[None]
        batch = self._source.read(places.reshape(-1))
        self._check(batch)
        batch["places"] = places.reshape(-1).astype(np.int32)
        arrays = {
            name: array.reshape(*places.shape, *array.shape[1:]) for name, array in batch.items()
        }
        return {**arrays, "divided": divided and self._divided}

    def _check(self, batch: Batch) -> None:
        """What JAX would not notice, as ``fit`` checks it of a split."""
        for name, most in (("labels", self._classes), ("lengths", batch["inputs"].shape[1] + 1)):
            values = np.asarray(batch.get(name, ()))
            if most and values.size and not 0 <= values.min() <= values.max() < most:
                raise ValueError(
                    f"{name} must be between 0 and {most - 1}, for this model and these inputs; "
                    f"got {values.min()} to {values.max()}"
                )

    def _batch(self, step: int) -> np.ndarray:
        """Where the examples of a step are, counted over all passes."""
        turn, step = divmod(step, self._steps)
        return self._places(turn, step * self._batch_size, (step + 1) * self._batch_size)

    def _places(self, turn: int, start: int, stop: int) -> np.ndarray:
        """Part of the order of a pass."""
        if self._key is None:
            return np.arange(start, stop)
        with self._lock:  # readers meet at the start of a pass
            if turn not in self._orders:
                with _on_cpu():
                    key = jax.random.wrap_key_data(jnp.asarray(self._key), impl=self._impl)
                    order = jax.random.permutation(
                        jax.random.fold_in(key, turn + 1), len(self._source)
                    )
                    self._orders[turn] = np.asarray(order)
            return self._orders[turn][start:stop]

    def _forget_before(self, turn: int) -> None:
        with self._lock:
            self._orders = {k: order for k, order in self._orders.items() if k >= turn}


def _on_cpu() -> Any:
    """Away from accelerators, which are busy, if JAX was not told to use nothing else."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def _read_ahead(elements: _Elements, workers: int, start: int = 0, place: Any = None) -> Any:
    """A Grain dataset of the elements from ``start`` on."""
    import grain

    dataset = grain.MapDataset.source(elements)
    if start:
        dataset = dataset[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    reading = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain asks for a flag, also in programs without absl
            flags.FLAGS.mark_as_parsed()
        reading = reading.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_begin_worker
        )
    if place is None:
        return reading
    placed = reading.map(place)
    return grain.experimental.ThreadPrefetchIterDataset(placed, prefetch_buffer_size=1)


def _begin_worker(index: int, count: int) -> None:
    """A reader leaves it to its parent what a signal means, and does not outlive it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def mesh_of(block: Batch, mesh: Mesh) -> Mesh | None:
    """The mesh, if its devices share the batches of a block; None, if each has all of them."""
    return mesh if any(block["labels"].sharding.spec) else None


def _only_batch(element: Batch) -> Batch:
    return {name: element[name][0] for name in element if name not in ("places", "divided")}


def _place(element: Batch, mesh: Mesh) -> Batch:
    divided = element.pop("divided")
    return from_own_rows(element, mesh, divided=divided)
