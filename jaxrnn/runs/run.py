"""run: prepare an experiment, restore it, train it and leave its results."""

import contextlib
import importlib
import shlex
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.data import Datasets, Split, stream
from jaxrnn.files import write_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment, RuntimeConfig
from jaxrnn.runs.errors import explained, reading
from jaxrnn.runs.processes import Stopped, from_first, is_first, processes, say
from jaxrnn.runs.progress import Progress
from jaxrnn.runs.results import (
    describe_devices,
    describe_mesh,
    describe_results,
    draw_sample,
    results_of,
    write_about,
    write_confusion,
    write_curves,
    write_results,
)
from jaxrnn.runs.setup import (
    build_augmentation,
    check_jax,
    choose_mesh,
    keep_compiled_programs,
    prepare,
)
from jaxrnn.runs.signals import interruption
from jaxrnn.runs.tensorboard import Events, check_tensorboard
from jaxrnn.runs.workdir import check_workdir, open_workdir, restore, rewrite_history
from jaxrnn.training.clock import Clock
from jaxrnn.training.fitting import Hook, Record, fit
from jaxrnn.training.history import History, best_epoch, has_stalled, mean_history
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.sharding import to_host, use_cpu_cores
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import StepOptions


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


@contextlib.contextmanager
def session(runtime: RuntimeConfig) -> Iterator[None]:
    """Set up JAX for any number of runs: its devices, its cache and the other processes.

    Raises:
      ValueError: there are no devices, or the processes don't find each other.
      LostProcessesError: other processes of the run have ended.
    """
    if runtime.tensorboard:
        check_tensorboard()
    use_cpu_cores(runtime.devices)
    keep_compiled_programs()
    with processes(runtime):
        check_jax(runtime.devices)
        yield


def run_one(
    experiment: Experiment, name: str, *, data: Datasets | None = None, pictures: bool = True
) -> dict[str, Any]:
    """Train a checked experiment in a :func:`session`; see :func:`run`.

    Args:
      experiment: the full description of the run.
      name: what to call it.
      data: what ``experiment.data`` builds; by default it is built.
      pictures: write ``curves.png``, ``confusion.png`` and ``samples.png``.
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
    data, description, state, key = prepare(experiment, clock, data)
    mesh = choose_mesh(trainer, runtime.devices, state.params)
    augment = build_augmentation(experiment.augment, data.train)
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(state.params)) // trainer.seeds
    with contextlib.ExitStack() as held:
        opened = open_workdir(runtime.workdir, name, check)
        workdir = Path(from_first(lambda: str(held.enter_context(opened))))
        checkpoints = Checkpoints(workdir / "checkpoints", description)
        restored = restore(workdir, checkpoints, state, experiment.check_same)
        if is_first():
            write_json(workdir / "config.json", experiment.to_json())
        networks = f"{trainer.seeds} networks of " if trainer.seeds > 1 else ""
        say(
            f"{name}: {networks}{parameters:,} parameters, {len(data.train):,} training examples, "
            f"on {describe_mesh(mesh)}; files in {workdir}"
        )
        if restored:
            say(f"resuming after epoch {len(mean_history(restored[1]))}")
            rewrite_history(workdir, restored[1], trainer.epochs)
        resume = f"{experiment.command} resume {shlex.quote(str(workdir))}"
        advice = f"to resume: {resume}"
        with interruption() as interrupted, explained(checkpoints, advice), checkpoints:
            hooks: list[Hook] = [
                checkpoints,
                lambda record: interrupted.received is not None,
                lambda record: _has_stalled(experiment, record.history),
            ]
            past = restored or (state, None, key)
            state, histories = _train(
                experiment, data, augment, past, workdir, hooks, clock, pictures=pictures
            )
            early = _has_stalled(experiment, histories)
            finished = early or len(histories[0]) == trainer.epochs
            if finished:
                state, epoch = _kept(experiment, checkpoints, state, histories)
                about = {"parameters": parameters, "devices": describe_devices(mesh)}
                about |= {"seconds": clock.seconds, "stopped_early": early, "epoch": epoch}
                first = _first_network(state, trainer.seeds)
                results = _write(
                    experiment, data, workdir, first, histories, about, pictures=pictures
                )
        if not finished:
            say(f"stopped; earlier epochs are saved in {workdir}\n{advice}")
            # If another process received the signal, this one ends as that one does.
            raise Stopped(interrupted.exit_status or 128 + signal.SIGTERM)
    if runtime.sample:
        say(draw_sample(first, data.train, runtime.sample, trainer.seed))
    for line in describe_results(results, data.evals, experiment.task):
        say(line)
    if pictures:
        say(f"curves: {workdir / 'curves.png'}")
    say(f"to evaluate: {experiment.command} evaluate {shlex.quote(str(workdir))}")
    if experiment.can_grow and not results["stopped_early"]:
        say(f"to continue: {resume} --epochs {2 * trainer.epochs}")
    return results


def _train(
    experiment: Experiment,
    data: Datasets,
    augment: Any,
    past: tuple[TrainState, Any, jax.Array],
    workdir: Path,
    hooks: Sequence[Hook],
    clock: Clock,
    *,
    pictures: bool,
) -> tuple[TrainState, tuple[History, ...]]:
    """Train up to the last epoch, or until a hook stops it."""
    trainer, (state, history, key) = experiment.trainer, past
    train: Any = data.train
    options: Any = {"batch_size": trainer.batch_size, "drop_remainder": trainer.drop_remainder}
    if experiment.runtime.stream or not isinstance(train, Split):
        steps, workers = trainer.steps_per_epoch, experiment.runtime.workers
        train = stream(train, key=key, steps_per_epoch=steps, workers=workers, **options)
    seconds: dict[str, float] = {}

    def write_history(record: Record) -> None:
        if is_first():
            record.mean.to_csv(workdir / "history.csv")

    def add_seconds(record: Record) -> None:
        seconds.update(record.seconds)

    done = len(mean_history(history)) if history else 0
    epochs = done if _has_stalled(experiment, history) else trainer.epochs
    with (
        contextlib.ExitStack() as opened,
        ThreadPoolExecutor() as pool,
        Progress(trainer.epochs, done) as progress,
        reading(experiment.runtime.workers),
    ):
        pool.submit(importlib.import_module, "orbax.checkpoint")  # while XLA compiles
        own: list[Hook] = []
        if is_first():
            model = experiment.model.build(data.outputs)
            about = pool.submit(write_about, workdir, model, data.train, pictures)
            own += experiment.hooks()
            if experiment.runtime.tensorboard:
                own.append(opened.enter_context(Events(workdir / "events", [*data.evals], done)))
        state, history = fit(
            state,
            train,
            epochs=epochs,
            key=key,
            train_curve=trainer.train_curve,
            evals=data.evals,
            augment=augment,
            history=history,
            hooks=[write_history, *hooks, progress, *own, add_seconds],
            devices=experiment.runtime.devices,
            step_options=StepOptions(trainer.accumulate, trainer.truncate),
            **options,
        )
        if is_first():
            about.result()
    for phase, value in seconds.items():
        clock.seconds[phase] = clock.seconds.get(phase, 0.0) + value
    return state, (history,) if isinstance(history, History) else history


def _write(
    experiment: Experiment,
    data: Datasets,
    workdir: Path,
    first: TrainState,
    histories: Sequence[History],
    about: dict[str, Any],
    *,
    pictures: bool,
) -> dict[str, Any]:
    """Write the results and the pictures of a finished run; returns the results."""
    trainer = experiment.trainer
    seeds = range(trainer.seed, trainer.seed + trainer.seeds)
    results = results_of(histories, experiment.task, seeds, **about)
    if is_first():
        if pictures:
            write_confusion(workdir, first, data.evals)
            write_curves(workdir, histories, data.baselines)
        write_results(workdir, histories, seeds, results)
    return results


def _has_stalled(experiment: Experiment, history: Any) -> bool:
    task, patience = experiment.task, experiment.trainer.patience
    return has_stalled(history, task.best, task.maximize, patience)


def _kept(
    experiment: Experiment, checkpoints: Checkpoints, state: TrainState, histories: Any
) -> tuple[TrainState, int]:
    """The state that the run is about and its epoch: the last or, with patience, the best one."""
    task, last = experiment.task, len(histories[0])
    epoch = best_epoch(histories, task.best, task.maximize)
    if experiment.trainer.patience is None or epoch == last:
        return state, last
    checkpoints.wait()
    restored = checkpoints.restore(lambda description: state, best=True)
    return (restored or (state,))[0], epoch


def _first_network(state: TrainState, networks: int) -> TrainState:
    """The network of the first seed, on the host, by the average of its parameters if any."""
    params = to_host(averaged(state).params)
    first = jax.tree.map(lambda leaf: leaf[0], params) if networks > 1 else params
    return state.replace(params=first, opt_state=())
