"""run: prepare an experiment, restore it, train it and write its results."""

import contextlib
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from jaxrnn.data import Datasets, Split
from jaxrnn.files import Json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.hooks import Events, Progress
from jaxrnn.runs.interruptions import explained, interruption, reading
from jaxrnn.runs.prepare import Prepared, prepare
from jaxrnn.runs.processes import Stopped, from_first, is_first, say, session
from jaxrnn.runs.results import describe_start, finish, write_about
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
    experiment: Experiment, name: str, *, data: Datasets | None = None, pictures: bool = True
) -> Json:
    """Run a checked experiment, whose ``data`` may have been built before, in a :func:`session`.

    ``pictures`` is whether to draw curves, samples and confusions; for the rest see :func:`run`.
    """
    task, trainer, clock = experiment.task, experiment.trainer, Clock()
    check = partial(check_workdir, experiment=experiment)
    with open_workdir(experiment.runtime.workdir, name, check) as workdir:
        with clock("preparation"):
            prepared = prepare(experiment, data)
        checkpoints = Checkpoints(workdir / "checkpoints", prepared.description)
        prepared = restore(workdir, checkpoints, prepared, experiment)
        say(f"{name}: {describe_start(prepared)}; files in {workdir}")
        if prepared.history:
            say(f"resuming after epoch {len(prepared.history)}")
        resume = f"to resume: {experiment.advice('resume', workdir)}"
        with interruption() as interrupted, explained(checkpoints, resume):
            with checkpoints:
                hooks: list[Hook] = [checkpoints, interrupted]
                trained = _train(experiment, prepared, workdir, hooks, clock, pictures=pictures)
            epochs = len(trained.history)
            if epochs < trainer.epochs and not has_stalled(trained.history, task, trainer.patience):
                say(f"stopped; earlier epochs are saved in {workdir}\n{resume}")
                raise Stopped(interrupted.exit_status)
            results: Json = from_first(
                finish, workdir, experiment, trained, checkpoints, clock.seconds, pictures=pictures
            )
            return results


def _train(
    experiment: Experiment,
    prepared: Prepared,
    workdir: Path,
    hooks: Sequence[Hook],
    clock: Clock,
    *,
    pictures: bool,
) -> Prepared:
    """Train up to the last epoch, or until a hook stops it; return state and history after it."""
    trainer, runtime, data = experiment.trainer, experiment.runtime, prepared.data
    done, before = len(prepared.history), dict(clock.seconds)

    def write_history(record: Record) -> None:
        for phase, seconds in record.seconds.items():
            clock.seconds[phase] = before.get(phase, 0.0) + seconds
        if is_first():
            record.history.to_csv(workdir / "history.csv")

    with (
        contextlib.ExitStack() as opened,
        ThreadPoolExecutor() as pool,
        Progress(trainer.epochs, done) as progress,
        reading(runtime.workers),
    ):
        pool.submit(importlib.import_module, "orbax.checkpoint")  # while XLA compiles
        own: list[Hook] = []
        if is_first():
            about = pool.submit(write_about, workdir, prepared, pictures=pictures)
            own += experiment.hooks()
            if runtime.tensorboard:
                own.append(opened.enter_context(Events(workdir / "events", [*data.evals], done)))
        state, history = fit(
            prepared.state,
            prepared.train,
            trainer,
            key=prepared.key if isinstance(prepared.train, Split) else None,
            evals=data.evals,
            augment=prepared.augment,
            history=prepared.history,
            hooks=[write_history, *hooks, progress, *own],
            devices=runtime.devices,
        )
        if is_first():
            about.result()
    return prepared._replace(state=state, history=history)
