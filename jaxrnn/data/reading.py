"""Random access to the blocks of batches of a stream, which Grain reads ahead."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from absl import flags

from jaxrnn.data.readable import Readable
from jaxrnn.data.splits import check_values

_ENDLESS = 2**40  # blocks, as Grain requires a length


@dataclass(eq=False)
class Blocks:
    """Blocks of a stream: a ``batch``, its number of ``steps``, whether its batches are ``whole``.

    Attributes:
      source, batch_size, key: see :func:`jaxrnn.stream`.
      remainder: size of the short batch at the end of each pass, a block of its own; 0 for none.
      sizes: number of batches in each block of an epoch.
      own: the part of each whole batch that this process reads; None for all of it.
      devices: number of devices that share this part; the examples of each are contiguous.
      outputs: upper bound of the labels, exclusive; None if they aren't to be checked.
    """

    source: Readable
    batch_size: int
    key: jax.Array | None
    remainder: int
    sizes: list[int]
    own: slice | None = None
    devices: int = 1
    outputs: int | None = None
    _latest: tuple[int, np.ndarray] | None = field(default=None, init=False)

    @property
    def per_epoch(self) -> int:
        """Number of blocks in an epoch."""
        return len(self.sizes) + (self.remainder > 0)

    def __len__(self) -> int:
        return self.per_epoch if self.key is None else _ENDLESS

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, block = divmod(int(index), self.per_epoch)
        if whole := block < len(self.sizes):
            first = epoch * sum(self.sizes) + sum(self.sizes[:block])
            steps, own = self.sizes[block], self.own or slice(None)
            rows = np.stack([self._batch(step)[own] for step in range(first, first + steps)])
            places = rows.reshape(steps, self.devices, -1).swapaxes(0, 1).reshape(-1)
        else:
            places, steps = self._order(epoch)[-self.remainder :], 1
        batch = dict(self.source.read(places))
        if self.outputs is not None:
            check_values(batch, self.outputs)
        return {"batch": {**batch, "places": places}, "steps": steps, "whole": whole}

    def _batch(self, step: int) -> np.ndarray:
        """Return the positions of the examples of a step, counted over all passes."""
        epoch, step = divmod(step, len(self.source) // self.batch_size)
        return self._order(epoch)[step * self.batch_size :][: self.batch_size]

    def _order(self, index: int) -> np.ndarray:
        """Return the order of a pass; the latest is cached, as blocks are read in sequence."""
        if self._latest is None or self._latest[0] != index:
            order = np.arange(len(self.source), dtype=np.int32)
            if self.key is not None:
                with _on_cpu():
                    key = jax.random.fold_in(self.key, index + 1)
                    order = np.asarray(jax.random.permutation(key, len(self.source)))
            self._latest = index, order
        return self._latest[1]


def _on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Compute on the CPU, as accelerators are busy, if JAX has access to it."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def read_ahead(
    blocks: Blocks, workers: int, start: int = 0, place: Callable[..., Any] | None = None
) -> Any:
    """Return a Grain dataset of the blocks from ``start`` on, to which ``place`` is applied."""
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    reading = grain.MapDataset.source(blocks)[start:].to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads a flag even if the program doesn't use absl
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers)
        reading = reading.mp_prefetch(processes, worker_init_fn=_begin_worker)
    if place is None:
        return reading
    placed = reading.map(lambda block: place(**block))
    return grain.experimental.ThreadPrefetchIterDataset(placed, prefetch_buffer_size=1)


def _begin_worker(index: int, count: int) -> None:
    """Use no accelerator, leave signals to the parent process, and end with it."""
    jax.config.update("jax_platforms", "cpu")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
