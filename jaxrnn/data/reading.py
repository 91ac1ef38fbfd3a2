"""Read ahead with Grain, in a thread or in worker processes."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOPPING = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
"""Signals from terminals or schedulers, such as SLURM, that stop a run after the current epoch."""


def read_ahead(
    blocks: Any, workers: int, start: int = 0, put: Callable[..., Any] | None = None
) -> Any:
    """Return a Grain dataset of the blocks from ``start`` on, to which ``put`` is applied."""
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    reading = grain.MapDataset.source(blocks)[start:].to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads a flag even if the program doesn't use absl
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers)
        reading = reading.mp_prefetch(processes, worker_init_fn=_begin_worker)
    if put is None:
        return reading
    ready = reading.map(lambda block: put(**block))
    return grain.experimental.ThreadPrefetchIterDataset(ready, prefetch_buffer_size=1)


def on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Run JAX on the CPU if it is available, since accelerators are busy."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def _begin_worker(index: int, count: int) -> None:
    """Use no accelerator, leave signals to the parent process, and end with it."""
    jax.config.update("jax_platforms", "cpu")
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
