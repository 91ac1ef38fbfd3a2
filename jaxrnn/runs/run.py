"""run: prepare an experiment, restore it, train it and write its results."""

import contextlib
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from jaxrnn.data import Datasets
from jaxrnn.files import Json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.hooks import Progress, writing_events
from jaxrnn.runs.interruptions import Interruption, explained, interruption, reading
from jaxrnn.runs.prepare import Prepared, prepare
from jaxrnn.runs.processes import Stopped, from_first, is_first, say, session
from jaxrnn.runs.results import describe_mesh, finish, parameters, write_about
from jaxrnn.runs.workdir import check_workdir, open_workdir, restore
from jaxrnn.training.fitting import Hook, Record, fit
from jaxrnn.training.history import Clock, has_stalled


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

    ``pictures`` is whether to draw curves, samples and confusions; ``interrupted`` is that of the
    caller, if it takes signals itself. For the rest see :func:`run`.
    """
    trainer, runtime, clock = experiment.trainer, experiment.runtime, Clock()
    check = partial(check_workdir, experiment=experiment)
    with open_workdir(runtime.workdir, name, check) as workdir, contextlib.ExitStack() as signals:
        with clock("preparation"):
            prepared = prepare(experiment, data)
        checkpoints = Checkpoints(workdir / "checkpoints", prepared.description)
        prepared = restore(workdir, checkpoints, prepared, experiment)
        examples, devices = len(prepared.data.train), describe_mesh(prepared.mesh)
        say(
            f"{name}: {parameters(prepared.state):,} parameters, {examples:,} training examples, "
            f"on {devices}; files in {workdir}"
        )
        if prepared.history:
            say(f"resuming after epoch {len(prepared.history)}")
        resume = f"to resume: {experiment.advice('resume', workdir)}"
        interrupted = interrupted or signals.enter_context(interruption())
        with explained(checkpoints, resume):
            hooks: list[Hook] = [checkpoints, interrupted]
            with checkpoints, reading(runtime.workers):
                trained = _train(experiment, prepared, workdir, hooks, clock, pictures)
            history = trained.history
            stalled = has_stalled(history, experiment.task, trainer.patience)
            if len(history) < trainer.epochs and not stalled:
                say(f"stopped; earlier epochs are saved in {workdir}\n{resume}")
                raise Stopped(interrupted.exit_status)
            seconds = clock.seconds
            results: Json = from_first(
                finish, workdir, experiment, trained, checkpoints, seconds, pictures=pictures
            )
            return results


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
