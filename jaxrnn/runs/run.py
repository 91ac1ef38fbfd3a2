"""run: prepare an experiment, restore it, train it and leave its results."""

import contextlib
import importlib
import shlex
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxrnn.data import Datasets, Split
from jaxrnn.files import write_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.hooks import Events, Progress
from jaxrnn.runs.interruptions import explained, interruption, reading
from jaxrnn.runs.prepare import Prepared, prepare, session
from jaxrnn.runs.processes import Stopped, from_first, is_first, say
from jaxrnn.runs.results import (
    describe_devices,
    describe_mesh,
    describe_results,
    draw_sample,
    results_of,
    write_about,
    write_results,
)
from jaxrnn.runs.workdir import check_workdir, open_workdir, restore, rewrite_history
from jaxrnn.training.fitting import Hook, Record, fit
from jaxrnn.training.history import Clock, History, best_epoch, has_stalled
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.state import TrainState


def run(experiment: Experiment, *, name: str | None = None) -> dict[str, Any]:
    """Train an experiment, or continue it if its work directory holds it already.

    The work directory gets ``config.json``, ``parameters.txt``, ``history.csv``, ``checkpoints/``,
    ``results.json``, ``curves.png``, for classes ``confusion.png``, for labelled images
    ``samples.png`` and, if asked for, TensorBoard's ``events/``. SIGINT and SIGTERM stop the run
    after the current epoch.

    Args:
      experiment: the full description of the run.
      name: what to call the run and, without ``runtime.workdir``, its directory; by default the
        name of the experiment's class.

    Returns:
      The contents of ``results.json``.

    Raises:
      ValueError: an option is wrong, or the work directory holds another run.
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
) -> dict[str, Any]:
    """Run an experiment within a :func:`session`; see :func:`run`.

    Args:
      experiment: one that has been checked.
      name: of the run.
      data: what ``experiment.data`` builds, if that has been done before.
      pictures: whether to draw curves, samples and confusions.
    """
    trainer, runtime, clock = experiment.trainer, experiment.runtime, Clock()
    check = partial(
        check_workdir,
        check_same=experiment.check_same,
        epochs=trainer.epochs,
        can_grow=experiment.can_grow,
    )
    if runtime.workdir is not None:
        from_first(partial(check, runtime.workdir))
    with clock("preparation"):
        prepared = prepare(experiment, data)
    data, state = prepared.data, prepared.state
    with contextlib.ExitStack() as held:
        opened = open_workdir(runtime.workdir, name, check)
        workdir = Path(from_first(lambda: str(held.enter_context(opened))))
        checkpoints = Checkpoints(workdir / "checkpoints", prepared.description)
        restored = restore(workdir, checkpoints, state, experiment.check_same)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        if is_first():
            write_json(workdir / "config.json", experiment.to_json())
        say(
            f"{name}: {parameters:,} parameters, {len(data.train):,} training examples, "
            f"on {describe_mesh(prepared.mesh)}; files in {workdir}"
        )
        if restored:
            say(f"resuming after epoch {len(restored[1])}")
            rewrite_history(workdir, restored[1], trainer.epochs)
        resume = f"{experiment.command} resume {shlex.quote(str(workdir))}"
        with (
            interruption() as interrupted,
            explained(checkpoints, f"to resume: {resume}"),
            checkpoints,
        ):
            hooks: list[Hook] = [checkpoints, lambda record: interrupted.received is not None]
            past = restored[:2] if restored else (state, History())
            state, history = _train(
                experiment, prepared, past, workdir, hooks, clock, pictures=pictures
            )
            early = has_stalled(history, experiment.task, trainer.patience)
            finished = early or len(history) == trainer.epochs
            if finished:
                state, epoch = _kept(experiment, checkpoints, state, history)
                about = {"seed": trainer.seed, "parameters": parameters, "stopped_early": early}
                about |= {"devices": describe_devices(prepared.mesh), "seconds": clock.seconds}
                results = results_of(history, experiment.task, epoch, **about)
                checkpoints.wait()  # a run with results has its last epoch on disk, too
                if is_first():
                    write_results(workdir, state, data, history, results, pictures=pictures)
        if not finished:
            say(f"stopped; earlier epochs are saved in {workdir}\nto resume: {resume}")
            # If another process received the signal, this one ends as that one does.
            raise Stopped(interrupted.exit_status or 128 + signal.SIGTERM)
    if runtime.sample:
        say(draw_sample(state, data.train, runtime.sample, trainer.seed))
    _say_results(experiment, data, results, workdir)
    return results


def _train(
    experiment: Experiment,
    prepared: Prepared,
    past: tuple[TrainState, History],
    workdir: Path,
    hooks: Sequence[Hook],
    clock: Clock,
    *,
    pictures: bool,
) -> tuple[TrainState, History]:
    """Train up to the last epoch, or until a hook stops it."""
    trainer, runtime, (state, history) = experiment.trainer, experiment.runtime, past
    data, done = prepared.data, len(history)
    seconds: dict[str, float] = {}

    def write_history(record: Record) -> None:
        seconds.update(record.seconds)
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
            model = experiment.model.build(data.outputs)
            about = pool.submit(write_about, workdir, model, data.train, pictures=pictures)
            own += experiment.hooks()
            if runtime.tensorboard:
                own.append(opened.enter_context(Events(workdir / "events", [*data.evals], done)))
        state, history = fit(
            state,
            prepared.train,
            trainer,
            key=prepared.key if isinstance(prepared.train, Split) else None,
            evals=data.evals,
            augment=prepared.augment,
            history=history,
            hooks=[write_history, *hooks, progress, *own],
            devices=runtime.devices,
        )
        if is_first():
            about.result()
    for phase, value in seconds.items():
        clock.seconds[phase] = clock.seconds.get(phase, 0.0) + value
    return state, history


def _kept(
    experiment: Experiment, checkpoints: Checkpoints, state: TrainState, history: History
) -> tuple[TrainState, int]:
    """Return the last state or, with patience, the best one, by its average; and its epoch."""
    last, epoch = len(history), best_epoch(history, experiment.task)
    if experiment.trainer.patience is None or epoch == last:
        return _to_predict(state), last
    checkpoints.wait()
    restored = checkpoints.restore(lambda description: state, best=True)
    return _to_predict((restored or (state,))[0]), epoch


def _to_predict(state: TrainState) -> TrainState:
    """Return the average of the parameters, if there is one, on the host."""
    return state.replace(params=jax.device_get(averaged(state).params), opt_state=())


def _say_results(
    experiment: Experiment, data: Datasets, results: Mapping[str, Any], workdir: Path
) -> None:
    """Print the metrics that count, and the commands that go on from here."""
    command, directory = experiment.command, shlex.quote(str(workdir))
    for line in describe_results(results, data.evals, experiment.task):
        say(line)
    say(f"curves: {workdir / 'curves.png'}")
    say(f"to evaluate: {command} evaluate {directory}")
    if experiment.can_grow and not results["stopped_early"]:
        say(f"to continue: {command} resume {directory} --epochs {2 * experiment.trainer.epochs}")
