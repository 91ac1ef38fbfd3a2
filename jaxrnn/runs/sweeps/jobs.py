"""Train the runs of a sweep, one after the other or side by side in several processes."""

import contextlib
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from multiprocessing import connection
from typing import Any, TypeAlias

from jaxrnn.runs.config import Experiment
from jaxrnn.runs.interruptions import Interruption, interruption
from jaxrnn.runs.prepare import build_data
from jaxrnn.runs.processes import Stopped, session
from jaxrnn.runs.run import run_one
from jaxrnn.training.fitting import NonFiniteLossError
from jaxrnn.training.sharding import in_any_process

Outcome: TypeAlias = dict[str, Any] | str
"""The results of a run, or why it failed."""


def train_each(
    runs: Mapping[str, Experiment], *, pictures: bool, jobs: int, interrupted: Interruption
) -> Iterator[tuple[str, Outcome]]:
    """Train runs, and yield each with its outcome when it has ended.

    Args:
      runs: by their directories.
      pictures: whether each run draws its pictures.
      jobs: number of processes; a single one needs a :func:`jaxrnn.runs.processes.session`.
      interrupted: whether a signal was received.

    Raises:
      Stopped: a signal stopped a run.
    """
    if jobs > 1 and runs:
        yield from _side_by_side(runs, pictures, jobs, interrupted)
        return
    train = _Trainer(pictures, interrupted)
    for directory, experiment in runs.items():
        yield directory, train(experiment)


class _Trainer:
    """Trains runs one after the other; they share data and compiled programs."""

    def __init__(self, pictures: bool, interrupted: Interruption) -> None:
        self._pictures, self._interrupted = pictures, interrupted
        self._data: tuple[Any, Any] = None, None

    def __call__(self, experiment: Experiment) -> Outcome:
        if in_any_process(self._interrupted.received is not None):
            raise Stopped(self._interrupted.exit_status)
        if self._data[0] != experiment.data:
            self._data = experiment.data, build_data(experiment.data, experiment.runtime)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return run_one(experiment, "run", data=self._data[1], pictures=self._pictures)
        except NonFiniteLossError as error:
            return str(error)


def _side_by_side(
    runs: Mapping[str, Experiment], pictures: bool, jobs: int, interrupted: Interruption
) -> Iterator[tuple[str, Outcome]]:
    context = multiprocessing.get_context("spawn")
    shares, (stopping, stop) = context.SimpleQueue(), context.Pipe(duplex=False)
    for job in range(jobs):
        shares.put((job, jobs))
    setup = shares, stopping, pictures
    with futures.ProcessPoolExecutor(jobs, context, _start_worker, setup) as pool:
        waiting = {pool.submit(_work, run): directory for directory, run in runs.items()}
        try:
            while waiting and interrupted.received is None:
                for future in futures.wait(waiting, 0.2, futures.FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except futures.BrokenExecutor as error:
            raise OSError(f"a process that trains has ended: {error}") from error
        finally:
            if waiting:
                stop.close()  # which the workers notice
            pool.shutdown(cancel_futures=True)
    if waiting:
        raise Stopped(interrupted.exit_status)


_held = contextlib.ExitStack()
_worker: dict[str, Any] = {}
"""What a process that trains runs of a sweep keeps."""


def _start_worker(shares: Any, stopping: Any, pictures: bool) -> None:
    """Set up a process that trains runs."""
    job, jobs = shares.get()
    os.setsid()  # Ctrl-C interrupts the parent alone, which tells its workers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[job::jobs])
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / jobs:.3f}")  # of a GPU
    interrupted = _held.enter_context(interruption())
    _worker["train"] = _Trainer(pictures, interrupted)

    def watch() -> None:
        """Stop after the epoch when the parent says so, and at once when it has ended."""
        parent: Any = multiprocessing.parent_process()
        connection.wait([stopping, parent.sentinel])
        interrupted.received = signal.SIGTERM
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(run: Experiment) -> Outcome:
    if "session" not in _worker:
        _worker["session"] = _held.enter_context(session(run.runtime))
    outcome: Outcome = _worker["train"](run)
    return outcome
