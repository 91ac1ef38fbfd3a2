"""Train the runs of a sweep, one after the other or in parallel processes."""

import contextlib
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import TypeAlias

from jaxrnn.data import Datasets
from jaxrnn.files import Json
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.interruptions import Interruption, interruption
from jaxrnn.runs.prepare import build_data
from jaxrnn.runs.processes import Stopped, session
from jaxrnn.runs.run import run_one
from jaxrnn.training.metrics import NonFiniteLossError
from jaxrnn.training.sharding import in_any_process

Outcome: TypeAlias = Json | str
"""The results of a run, or why it failed."""


def train_each(
    runs: Mapping[str, Experiment], *, pictures: bool, jobs: int, interrupted: Interruption
) -> Iterator[tuple[str, Outcome]]:
    """Train runs, and yield the directory of each with its outcome when it has ended.

    A single job runs in this process, within a session; several run in processes of their own.

    Raises:
      Stopped: a signal was received.
    """
    if jobs == 1:
        yield from zip(runs, map(_Trainer(pictures, interrupted), runs.values()), strict=True)
        return
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


class _Trainer:
    """Trains runs one after the other; they share data and compiled programs."""

    def __init__(self, pictures: bool, interrupted: Interruption) -> None:
        self._pictures, self._interrupted = pictures, interrupted
        self._data: tuple[object, Datasets | None] = None, None

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


_worker: Json = {}
"""The state of a worker process."""


def _start_worker(
    shares: "SimpleQueue[tuple[int, int]]", stopping: Connection, pictures: bool
) -> None:
    """Set up a worker process on its share of the cores."""
    job, jobs = shares.get()
    os.setsid()  # Ctrl-C interrupts the parent alone, which tells its workers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[job::jobs])
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / jobs:.3f}")  # of a GPU
    _worker["signals"] = signals = interruption()  # kept, as exiting would restore the handlers
    interrupted = signals.__enter__()
    _worker["train"] = _Trainer(pictures, interrupted)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        stopping.poll(None)  # until the parent closes its end, or ends
        interrupted.received = signal.SIGTERM
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(run: Experiment) -> Outcome:
    with session(run.runtime):  # here, so that errors reach the parent
        outcome: Outcome = _worker["train"](run)
    return outcome
