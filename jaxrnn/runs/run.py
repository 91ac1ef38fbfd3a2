"""run: prepare an experiment in its directory, restore it, train it and write its results."""

import contextlib
import importlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax

from jaxrnn.data import Datasets
from jaxrnn.files import TEMPORARY, Json, read_json, read_json_or_none, write_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.interruptions import Interruption, explained, interruption, reading
from jaxrnn.runs.prepare import Prepared, check_same_data, describe_mesh, parameters, prepare
from jaxrnn.runs.processes import Stopped, from_first, is_first, say, session
from jaxrnn.runs.results import Progress, finish, write_about, writing_events
from jaxrnn.training import Record, TrainState, fit
from jaxrnn.training.fitting import Hook
from jaxrnn.training.history import Clock, has_stalled
from jaxrnn.training.sharding import in_any_process


def run(experiment: Experiment, *, name: str | None = None) -> Json:
    """Train an experiment, or continue it if its work directory holds it already.

    The work directory gets ``config.json``, ``parameters.txt``, ``history.csv``, ``checkpoints/``,
    ``results.json``, ``curves.png``, for classes ``confusion.png``, for labelled images
    ``samples.png`` and, if asked for, TensorBoard's ``events/``. SIGINT, SIGTERM, SIGHUP, SIGUSR1,
    SIGUSR2 and SIGXCPU stop the run after the current epoch; the previous handlers are restored
    afterwards. All but the first two are left alone if they are ignored or handled already.

    Args:
      experiment: the full description of the run.
      name: what to call the run and, without ``runtime.workdir``, its directory; by default the
        name of the experiment's class.

    Returns:
      The contents of ``results.json``.

    Raises:
      ValueError: an option is wrong, or the work directory holds another run, or one that was
        trained on other data.
      OSError: data can't be read, or files can't be written.
      NonFiniteLossError: training diverged.
      LostProcessesError: other processes of the run have ended.
      Stopped: a signal stopped the run; a subclass of ``SystemExit``.
    """
    experiment.check()
    with session(experiment.runtime):
        return run_one(experiment, name or type(experiment).__name__)


def run_one(
    experiment: Experiment,
    name: str,
    *,
    data: Datasets | None = None,
    pictures: bool = True,
    interrupted: Interruption | None = None,
) -> Json:
    """Run a checked experiment, whose ``data`` may have been built before, in a :func:`session`.

    ``pictures``: whether to draw curves, samples and confusion matrices; ``interrupted``: the
    caller's interruption, if the caller handles signals itself. For the rest, see :func:`run`.
    """
    trainer, runtime, clock = experiment.trainer, experiment.runtime, Clock()
    check = partial(_check, experiment=experiment)
    with open_workdir(runtime.workdir, name, check) as workdir, contextlib.ExitStack() as signals:
        with clock("preparation"):
            prepared = prepare(experiment, data)
        checkpoints = Checkpoints(workdir / "checkpoints", prepared.description)
        prepared = _restore(workdir, checkpoints, prepared, experiment)
        examples, devices = len(prepared.data.train), describe_mesh(prepared.mesh)
        size = f"{parameters(prepared.state):,} parameters, {examples:,} training examples"
        say(f"{name}: {size}, on {devices}; files in {workdir}")
        if prepared.history:
            say(f"resuming after epoch {len(prepared.history)}")
        resume = f"to resume: {experiment.advice('resume', workdir)}"
        interrupted = interrupted or signals.enter_context(interruption())
        with explained(checkpoints, resume):
            with checkpoints, reading():
                hooks: list[Hook] = [checkpoints, interrupted]
                trained = _train(experiment, prepared, workdir, hooks, clock, pictures)
            stalled = has_stalled(trained.history, experiment.task, trainer.patience)
            over = stalled or len(trained.history) == trainer.epochs
            if in_any_process(interrupted.received is not None) and not over:
                say(f"stopped; earlier epochs are saved in {workdir}\n{resume}")
                raise Stopped(interrupted.exit_status)
            done = experiment, trained, checkpoints, clock.seconds
            return from_first(finish, workdir, *done, pictures=pictures)


def _train(
    experiment: Experiment,
    prepared: Prepared,
    workdir: Path,
    hooks: Sequence[Hook],
    clock: Clock,
    pictures: bool,
) -> Prepared:
    """Train up to the last epoch, or until a hook stops it; return state and history after it."""
    epochs, runtime, evals = experiment.trainer.epochs, experiment.runtime, prepared.data.evals
    done, before = len(prepared.history), dict(clock.seconds)

    def write_history(record: Record) -> None:
        for phase, seconds in record.seconds.items():
            clock.seconds[phase] = before.get(phase, 0.0) + seconds
        if is_first():
            record.history.to_csv(workdir / "history.csv")

    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as opened:
        pool.submit(importlib.import_module, "orbax.checkpoint")  # while XLA compiles
        hooks = [write_history, *hooks, opened.enter_context(Progress(epochs, done))]
        if is_first():
            about = pool.submit(write_about, workdir, prepared, pictures=pictures)
            hooks += experiment.hooks()
            if runtime.tensorboard:
                events = writing_events(workdir / "events", evals, done)
                hooks.append(opened.enter_context(events))
        state, history = fit(
            prepared.state,
            prepared.train,
            experiment.trainer,
            key=prepared.key,
            evals=evals,
            augment=prepared.augment,
            history=prepared.history,
            hooks=hooks,
            devices=runtime.devices,
        )
        if is_first():
            about.result()
    return prepared._replace(state=state, history=history)


def _check(workdir: Path, experiment: Experiment) -> None:
    """Raise ``ValueError`` unless a directory holds nothing, or a run that can be continued.

    Files that can be recreated from a checkpoint may be damaged or missing.
    """
    if (workdir / "sweep.json").exists():
        raise ValueError("it holds a sweep; choose another directory")
    config = workdir / "config.json"
    if (stored := read_json_or_none(config)) is not None:
        experiment.check_same(stored)
    elif config.exists() and not (workdir / "checkpoints").exists():
        read_json(config)  # which raises
    results, advice = read_results(workdir), "choose another directory"
    done = results.get("epochs", 0)
    if results.get("stopped_early"):
        raise ValueError(f"it holds a finished run, stopped early after {done} epochs; {advice}")
    if done >= experiment.trainer.epochs:
        advice = "raise --epochs to continue it, or " * experiment.can_grow + advice
        raise ValueError(f"it holds a finished run of {done} epochs; {advice}")


def read_results(workdir: Path) -> Json:
    """Return the contents of ``results.json``; empty if it is missing or damaged."""
    results = read_json_or_none(workdir / "results.json") or {}
    return results if isinstance(results.get("epochs"), int) else {}


@contextlib.contextmanager
def open_workdir(workdir: Path | None, name: str, check: Callable[[Path], None]) -> Iterator[Path]:
    """Create or open the directory of a run, by default ``runs/NAME-DATE-TIME``, and lock it.

    ``check`` is called once the directory is locked, since another process may have used it until
    then. A directory created here is removed if it is empty at the end of the ``with`` block.
    """
    with contextlib.ExitStack() as held:
        yield Path(from_first(_open, workdir, name, check, held))


def _open(
    workdir: Path | None, name: str, check: Callable[[Path], None], held: contextlib.ExitStack
) -> str:
    stem = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    chosen = workdir or next(path for path in map(Path, names) if not path.exists())
    try:
        made = [path for path in (chosen, *chosen.parents) if not path.exists()]
        held.callback(_remove_empty, made)
        # Only a directory that was asked for may exist already.
        chosen.mkdir(parents=True, exist_ok=workdir is not None)
        held.callback(os.close, descriptor := os.open(chosen, os.O_RDONLY))
        with contextlib.suppress(ImportError):  # of fcntl, which only Unix has
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        busy = isinstance(error, BlockingIOError)
        reason = "another process is using it" if busy else error.strerror
        reason = "it is no directory" if isinstance(error, FileExistsError) else reason
        raise OSError(f"--workdir {chosen} cannot be used: {reason}") from error
    try:
        check(chosen)
    except ValueError as error:
        raise ValueError(f"--workdir {chosen}: {error}") from error
    for path in chosen.glob(f".*{TEMPORARY}"):  # left by a process that was killed while writing
        path.unlink()
    return str(chosen)


def _remove_empty(directories: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):  # of the first one that is not empty
        for path in directories:
            path.rmdir()


def _restore(
    workdir: Path, checkpoints: Checkpoints, prepared: Prepared, experiment: Experiment
) -> Prepared:
    """Restore the last checkpoint, if there is one, and make the other files consistent with it."""
    config, curves, results = map(workdir.joinpath, ("config.json", "history.csv", "results.json"))
    # If config.json is readable, it was checked; its number of epochs may differ.
    configured = read_json_or_none(config) is not None

    def template(description: Json) -> TrainState:
        experiment.check_same(description["config"], any_epochs=configured)
        changed = check_same_data(description, prepared.description)
        if changed and not experiment.runtime.other_data:
            advice = "use --other-data to continue on the new data"
            raise ValueError(f"the data has changed since training: {changed}; {advice}")
        return prepared.state

    if restored := checkpoints.restore(template):
        prepared = prepared._replace(state=restored[0], history=restored[1])
    history = prepared.history
    if (first := from_first(len, history)) != len(history):
        found = f"process {jax.process_index()} found epoch {len(history)} in {workdir}"
        raise ValueError(f"{found}, the first process epoch {first}; all need the same directory")
    # history.csv may record two epochs before the first checkpoint is on disk, but not three.
    recorded = curves.exists() and len(curves.read_bytes().splitlines()) > 3
    if not history and (recorded or results.exists()):
        lost = "holds a run without its checkpoints; choose another directory"
        raise ValueError(f"--workdir {workdir} {lost}")
    if is_first():
        write_json(config, experiment.to_json())
        if history:  # the run may have been past its last checkpoint
            history.to_csv(curves)
        if len(history) < experiment.trainer.epochs:
            results.unlink(missing_ok=True)
    return prepared
