"""sweep: several runs of one experiment, one after the other or in parallel processes."""

import contextlib
import io
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jaxrnn.files import Json, write_json
from jaxrnn.runs import summary
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.interruptions import Interruption, interruption
from jaxrnn.runs.prepare import build_data
from jaxrnn.runs.processes import Stopped, from_first, say, session
from jaxrnn.runs.run import open_workdir, run_one
from jaxrnn.training import NonFiniteLossError
from jaxrnn.training.sharding import available_cores, in_any_process


def sweep(
    experiment: Experiment,
    *,
    seeds: int = 1,
    vary: Mapping[str, Sequence[Any]] = {},
    jobs: int = 1,
    pictures: bool = False,
    name: str | None = None,
) -> Json:
    """Train an experiment with several seeds and values of its options, each in a run of its own.

    The directory of the sweep gets one for each run, such as ``hidden=64/seed-0``, ``sweep.json``,
    ``sweep.csv`` with a row for each run, and ``sweep.png``. The same call continues a sweep that
    was stopped; more seeds or values extend it. A run that diverges is reported, and the others go
    on.

    Args:
      experiment: configuration that the runs share; gives the first seed and the sweep's directory.
      seeds: number of runs of each configuration, with consecutive seeds.
      vary: values by dotted name, such as ``{"optimizer.learning_rate": [1e-3, 3e-3]}``; every
        combination of them is a configuration.
      jobs: number of processes that train runs in parallel, each on its share of the cores.
      pictures: also draw the pictures of each run.
      name: as in :func:`jaxrnn.run`, which also says what is raised.

    Returns:
      The contents of ``sweep.json``: for each of ``configurations`` the mean, standard deviation
      and 95 % interval of the mean of every metric in ``columns``; the ``best`` of them by the
      first column; and the runs that ``failed``.
    """
    runtime, name = experiment.runtime, name or type(experiment).__name__
    most = 1 if runtime.distributed else available_cores()
    if not 1 <= jobs <= most:
        limit = "1 with --distributed" if runtime.distributed else f"{most}, the number of cores"
        raise ValueError(f"--jobs must be between 1 and {limit}; got {jobs}")
    vary = dict(sorted(vary.items()))  # data options first, so that data is read less often
    plan, finished, failed = _plan(experiment, seeds, vary), {}, {}
    check = partial(_begin, experiment=experiment, varied=[*vary])
    devices = session(runtime) if jobs == 1 else contextlib.nullcontext()  # else workers use them
    with devices, open_workdir(runtime.workdir, name, check) as workdir:
        say(f"{name}: {len(plan)} runs; files in {workdir}")
        for directory, run in [*plan.items()]:
            path = workdir / directory
            if results := from_first(summary.results_if_finished, path, run.trainer.epochs):
                finished[directory] = results
                del plan[directory]
            else:
                plan[directory] = replace(run, runtime=replace(runtime, workdir=path))
        with interruption() as interrupted:
            trained = _train_each(plan, pictures=pictures, jobs=jobs, interrupted=interrupted)
            try:
                for directory, outcome in itertools.chain(finished.items(), trained):
                    if isinstance(outcome, str):
                        failed[directory] = outcome
                    say(summary.describe_run(directory, outcome, experiment.task))
            except Stopped:
                say(f"stopped; to continue, give the same command with --workdir {workdir}")
                raise
        from_first(summary.write_summary, workdir, experiment.task, failed)
        content = summary.read_sweep(workdir)
        for line in summary.describe_sweep(content):
            say(line)
        return content


def _plan(
    experiment: Experiment, seeds: int, vary: Mapping[str, Sequence[Any]]
) -> dict[str, Experiment]:
    """Return the runs by their directories."""
    plan = {}
    for key in vary:
        if key == summary.SEED or key.startswith("runtime"):
            raise ValueError(f"--vary cannot vary {key}; for seeds, use --seed and --seeds")
    for values in itertools.product(*vary.values()):
        varied: Any = experiment
        for key, value in zip(vary, values, strict=True):
            varied = _replaced(varied, key, value)
        content, names = varied.to_json(), zip(summary.short_names(vary), vary, strict=True)
        label = ",".join(
            quote(f"{name}={summary.option_of(content, key)}", "=+") for name, key in names
        )
        for seed in range(experiment.trainer.seed, experiment.trainer.seed + seeds):
            planned = plan[str(Path(label, f"seed-{seed}"))] = _replaced(varied, summary.SEED, seed)
            planned.check()
    if not plan:
        raise ValueError("--seeds must be at least 1, and --vary needs values")
    return plan


def _replaced(group: Any, key: str, value: Any) -> Any:
    """Return a configuration with an option, by its dotted name, replaced."""
    name, _, rest = key.partition(".")
    return replace(group, **{name: _replaced(getattr(group, name), rest, value) if rest else value})


def _begin(workdir: Path, experiment: Experiment, varied: Sequence[str]) -> None:
    """Check that a directory holds this sweep or nothing, and write ``sweep.json``."""
    content: Json = {"experiment": experiment.identity, "varied": varied}
    stored = summary.read_sweep(workdir) or content
    if stored is content and (workdir / "config.json").exists():
        raise ValueError("it holds a single run; choose another directory")
    there, here = (", ".join(keys) or "only the seed" for keys in (stored["varied"], varied))
    if there != here:
        other = f"a sweep that varies {there} instead of {here}"
        raise ValueError(f"it holds {other}; choose another directory")
    for key in (*varied, summary.SEED):  # which may have other values
        experiment = _replaced(experiment, key, summary.option_of(stored["experiment"], key))
    experiment.check_same(stored["experiment"])
    write_json(workdir / "sweep.json", content)


def _train_each(
    runs: Mapping[str, Experiment], *, pictures: bool, jobs: int, interrupted: Interruption
) -> Iterator[tuple[str, summary.Outcome]]:
    """Train runs, and yield the directory of each with its outcome when it has ended.

    One job runs in this process, several in their own; raises ``Stopped`` after a signal.
    """
    if jobs == 1:
        yield from zip(runs, map(_Trainer(pictures, interrupted), runs.values()), strict=True)
        return
    context = multiprocessing.get_context("spawn")
    shares, (stopping, stop) = context.SimpleQueue(), context.Pipe(duplex=False)
    for job in range(jobs):
        shares.put(job)
    setup = shares, stopping, jobs, pictures
    with futures.ProcessPoolExecutor(jobs, context, _start_worker, setup) as pool:
        waiting = {pool.submit(_work, run): directory for directory, run in runs.items()}
        try:
            while waiting and interrupted.received is None:
                for future in futures.wait(waiting, 0.2, futures.FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except futures.BrokenExecutor as error:
            raise OSError(f"a worker process ended unexpectedly: {error}") from error
        finally:
            if waiting:
                stop.close()  # which the workers notice
            pool.shutdown(cancel_futures=True)
    if waiting:
        raise Stopped(interrupted.exit_status)


class _Trainer:
    """Trains runs one after the other; they share data and compiled programs."""

    def __init__(self, pictures: bool, interrupted: Interruption) -> None:
        self._options: Json = {"pictures": pictures, "interrupted": interrupted}
        self._group: object = None  # of the data that was built last

    def __call__(self, run: Experiment) -> summary.Outcome:
        interrupted = self._options["interrupted"]
        if in_any_process(interrupted.received is not None):
            raise Stopped(interrupted.exit_status)
        if self._group != run.data:
            self._group, self._options["data"] = run.data, build_data(run.data, run.runtime)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return run_one(run, "run", **self._options)
        except NonFiniteLossError as error:
            return str(error)


_worker: Json = {}
"""The state of a worker process."""


def _start_worker(shares: "SimpleQueue[int]", stop: Connection, jobs: int, pictures: bool) -> None:
    """Set up a worker process on its share of the cores."""
    job = shares.get()
    os.setsid()  # Ctrl-C interrupts the parent alone, which tells its workers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[job::jobs])
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / jobs:.3f}")  # of a GPU
    _worker["signals"] = signals = interruption()  # kept, as exiting would restore the handlers
    interrupted = signals.__enter__()
    _worker["train"] = _Trainer(pictures, interrupted)

    def watch() -> None:
        stop.poll(None)  # until the parent closes its end, or ends
        interrupted.received = signal.SIGTERM
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(run: Experiment) -> summary.Outcome:
    with session(run.runtime):  # here, so that errors reach the parent
        return _worker["train"](run)
