"""Random access to the blocks of batches of a stream, which Grain reads ahead."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxrnn.data.readable import Readable
from jaxrnn.data.splits import check_values

_ENDLESS = 2**40  # elements; Grain wants a length


class Blocks:
    """The blocks of a stream, each a dictionary of a ``batch``, its number of ``steps`` and whether
    its batches are ``whole``.

    Args:
      source: where examples are read.
      batch_size: examples per batch.
      key: root of the order; None for one pass in file order.
      remainder: size of the short batch at the end of each pass, a block of its own; 0 for none.
      sizes: number of batches in each block of an epoch.
      own: the part of each whole batch to read; None for all of it.
      devices: number of devices that share this part; the examples of each stand together.
      outputs: labels must be below; None to leave them unchecked.
    """

    def __init__(
        self,
        source: Readable,
        batch_size: int,
        key: jax.Array | None,
        remainder: int,
        sizes: list[int],
        *,
        own: slice | None = None,
        devices: int = 1,
        outputs: int | None = None,
    ) -> None:
        self._source, self._batch_size, self._remainder = source, batch_size, remainder
        self._steps = len(source) // batch_size
        self._key = None if key is None else np.asarray(jax.random.key_data(key))
        self._impl = None if key is None else str(jax.random.key_impl(key))
        self._starts = [0, *np.cumsum(sizes).tolist()]
        self.per_epoch = len(sizes) + (remainder > 0)
        self._own, self._devices, self._outputs = own or slice(None), devices, outputs
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.per_epoch if self._key is None else _ENDLESS

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_orders": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
        if multiprocessing.parent_process() is not None:  # a worker must not take an accelerator
            jax.config.update("jax_platforms", "cpu")

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, block = divmod(int(index), self.per_epoch)
        whole = block < len(self._starts) - 1
        if whole:
            first, last = (epoch * self._starts[-1] + self._starts[block + i] for i in (0, 1))
            rows = np.stack([self._batch(step)[self._own] for step in range(first, last)])
            steps = len(rows)
            places = rows.reshape(steps, self._devices, -1).swapaxes(0, 1).reshape(-1)
            self._forget_before(first // self._steps)
        else:
            places = self._places(epoch, self._steps * self._batch_size, len(self._source))
            steps = 1
        batch = dict(self._source.read(places))
        if self._outputs is not None:
            check_values(batch, self._outputs)
        batch["places"] = places.astype(np.int32)
        return {"batch": batch, "steps": steps, "whole": whole}

    def _batch(self, step: int) -> np.ndarray:
        """Return the positions of the examples of a step, counted over all passes."""
        turn, step = divmod(step, self._steps)
        return self._places(turn, step * self._batch_size, (step + 1) * self._batch_size)

    def _places(self, turn: int, start: int, stop: int) -> np.ndarray:
        """Return a part of the order of a pass."""
        if self._key is None:
            return np.arange(start, stop)
        with self._lock:  # several readers start a pass at once
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


def _on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Compute on the CPU, as accelerators are busy, unless JAX is set to use nothing else."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def read_ahead(
    blocks: Blocks,
    workers: int,
    start: int = 0,
    place: Callable[..., Any] | None = None,
) -> Any:
    """Return a Grain dataset of the blocks from ``start`` on, to which ``place`` is applied."""
    import grain

    dataset = grain.MapDataset.source(blocks)
    if start:
        dataset = dataset[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    reading = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads a flag, even in programs without absl
            flags.FLAGS.mark_as_parsed()
        reading = reading.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_begin_worker
        )
    if place is None:
        return reading
    placed = reading.map(lambda block: place(**block))
    return grain.experimental.ThreadPrefetchIterDataset(placed, prefetch_buffer_size=1)


def _begin_worker(index: int, count: int) -> None:
    """Leave signals to the parent process, and end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
