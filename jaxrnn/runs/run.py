"""run: prepare an experiment, restore it, train it and leave its results."""

import contextlib
import importlib
import shlex
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.data import Datasets, Split, stream
from jaxrnn.parallel import use_cpu_cores
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.files import write_figure, write_json
from jaxrnn.runs.fitting import NonFiniteLossError, Record, fit
from jaxrnn.runs.history import History, mean_history
from jaxrnn.runs.processes import Stopped, from_first, is_first, processes, say
from jaxrnn.runs.progress import Clock, Progress
from jaxrnn.runs.results import describe_results, results_of
from jaxrnn.runs.setup import (
    Network,
    batches_per_epoch,
    build_augmentation,
    build_data,
    choose_devices,
    initial_states,
    keep_compiled_programs,
)
from jaxrnn.runs.signals import Interruption, interruption
from jaxrnn.runs.workdir import check_workdir, open_workdir


def run(experiment: Experiment, *, name: str | None = None) -> dict[str, Any]:
    """Train an experiment, or continue it if its work directory holds it already.

    The work directory gets ``config.json``, ``history.csv``, ``checkpoints/``, ``results.json``,
    ``curves.png`` and, for labelled images, ``samples.png``. SIGINT and SIGTERM stop the run after
    the current epoch.

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
    use_cpu_cores(experiment.runtime.devices)
    keep_compiled_programs()
    with processes(experiment.runtime):
        return _run(experiment, name or type(experiment).__name__)


def _run(experiment: Experiment, name: str) -> dict[str, Any]:
    trainer, runtime, clock = experiment.trainer, experiment.runtime, Clock()
    check = partial(
        check_workdir,
        check_same=experiment.check_same,
        epochs=trainer.epochs,
        can_grow=experiment.can_grow,
    )
    if runtime.workdir is not None:
        from_first(partial(check, runtime.workdir))
    prepared = _prepare(experiment, clock)
    with contextlib.ExitStack() as held:
        opened = open_workdir(runtime.workdir, name, check)
        workdir = Path(from_first(lambda: str(held.enter_context(opened))))
        checkpoints = Checkpoints(workdir / "checkpoints", prepared.description)
        past = _restore(experiment, prepared, workdir, checkpoints)
        if is_first():
            write_json(workdir / "config.json", experiment.to_json())
        networks = f"{trainer.seeds} networks of " if trainer.seeds > 1 else ""
        devices = prepared.about["devices"]
        say(
            f"{name}: {networks}{prepared.about['parameters']:,} parameters, "
            f"{len(prepared.data.train):,} training examples, "
            f"on {len(devices)} × {devices[0]}; files in {workdir}"
        )
        resume = f"to resume: {experiment.command} resume {shlex.quote(str(workdir))}"
        with interruption() as interrupted, _explained(workdir, checkpoints, resume):
            histories, seconds = _train(
                experiment, prepared, past, workdir, checkpoints, interrupted
            )
        if len(histories[0]) < trainer.epochs:
            say(f"stopped; earlier epochs are saved in {workdir}\n{resume}")
            # If another process received the signal, this one ends as that one does.
            raise Stopped(interrupted.exit_status or 128 + signal.SIGTERM)
        about = {**prepared.about, "seconds": dict(Counter(clock.seconds) + Counter(seconds))}
        seeds = range(trainer.seed, trainer.seed + trainer.seeds)
        results = results_of(histories, experiment.task, seeds, **about)
        if is_first():
            _write_results(workdir, histories, seeds, results)
    for line in describe_results(results, prepared.data.evals, experiment.task):
        say(line)
    say(f"files are in {workdir}")
    return results


@dataclass(frozen=True)
class _Prepared:
    """Everything that a run needs, before its work directory is opened."""

    data: Datasets
    augment: Any
    streamed: bool
    state: Any
    key: jax.Array
    description: Mapping[str, Any]
    about: Mapping[str, Any]


def _prepare(experiment: Experiment, clock: Clock) -> _Prepared:
    trainer, runtime = experiment.trainer, experiment.runtime
    devices = choose_devices(trainer, runtime.devices)
    with clock("preparation"):
        data = build_data(experiment.data, runtime)
    augment = build_augmentation(experiment.augment, data.train)
    streamed = runtime.stream or not isinstance(data.train, Split)
    steps = trainer.epochs * batches_per_epoch(data.train, trainer, streamed=streamed)
    network = Network.of(experiment.model, experiment.task, experiment.optimizer, data, steps)
    network.check(data.train, *data.evals.values())
    with clock("training"):
        state, key = initial_states(network, trainer)
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(state.params)) // trainer.seeds
    return _Prepared(
        data=data,
        augment=augment,
        streamed=streamed,
        state=state,
        key=key,
        description={
            "config": experiment.identity,
            "input_shape": list(network.input_shape),
            "outputs": data.outputs,
            "steps": steps,
            "members": list(np.shape(state.step)),
        },
        about={"parameters": parameters, "devices": devices},
    )


def _restore(
    experiment: Experiment, prepared: _Prepared, workdir: Path, checkpoints: Checkpoints
) -> tuple[Any, Any, jax.Array]:
    """State, history and root key of the last checkpoint; those of the start, if there is none.

    Raises:
      ValueError: every checkpoint is damaged or of another configuration; or there is none, though
        the run was past its second epoch.
    """

    def template(description: Mapping[str, Any]) -> Any:
        experiment.check_same(description["config"])
        return prepared.state

    restored = checkpoints.restore(template)
    epochs = len(mean_history(restored[1])) if restored is not None else 0
    if from_first(lambda: epochs) != epochs:
        raise ValueError(
            f"process {jax.process_index()} found epoch {epochs} in {workdir}, unlike the first "
            "process; all of them need the same directory"
        )
    curves = workdir / "history.csv"
    if restored is not None:
        say(f"resuming after epoch {epochs}")
        if is_first():
            mean_history(restored[1]).to_csv(curves)
            if epochs < experiment.trainer.epochs:  # they are out of date
                (workdir / "results.json").unlink(missing_ok=True)
        return restored
    # The second epoch may be recorded before the first is on disk; the third is not.
    further = curves.exists() and len(History.from_csv(curves)) > 2
    if further or (workdir / "results.json").exists():
        raise ValueError(
            f"--workdir {workdir} holds a run without its checkpoints; choose another directory"
        )
    return prepared.state, None, prepared.key


def _train(
    experiment: Experiment,
    prepared: _Prepared,
    past: tuple[Any, Any, jax.Array],
    workdir: Path,
    checkpoints: Checkpoints,
    interrupted: Interruption,
) -> tuple[tuple[History, ...], Mapping[str, float]]:
    """Train up to the last epoch, or until a signal; the histories, and seconds by phase."""
    trainer, (state, history, key) = experiment.trainer, past
    options = {"batch_size": trainer.batch_size, "drop_remainder": trainer.drop_remainder}
    train: Any = prepared.data.train
    if prepared.streamed:
        steps, workers = trainer.steps_per_epoch, experiment.runtime.workers
        train = stream(train, key=key, steps_per_epoch=steps, workers=workers, **options)
    seconds: dict[str, float] = {}

    def write_history(record: Record) -> None:
        if is_first():
            record.mean.to_csv(workdir / "history.csv")

    with ThreadPoolExecutor() as pool, checkpoints, Progress(trainer.epochs) as progress:
        pool.submit(importlib.import_module, "orbax.checkpoint")  # while XLA compiles
        samples = pool.submit(_write_samples, prepared.data.train, workdir)
        _, history = fit(
            state,
            train,
            epochs=trainer.epochs,
            key=key,
            train_curve=trainer.train_curve,
            evals=prepared.data.evals,
            augment=prepared.augment,
            history=history,
            hooks=[
                write_history,
                checkpoints,
                progress,
                *(experiment.hooks() if is_first() else ()),
                lambda record: seconds.update(record.seconds),
                lambda record: interrupted.received is not None,
            ],
            devices=experiment.runtime.devices,
            **options,
        )
        samples.result()
    return (history,) if isinstance(history, History) else history, seconds


@contextlib.contextmanager
def _explained(workdir: Path, checkpoints: Checkpoints, resume: str) -> Iterator[None]:
    """Add to an error in training what to do about it."""
    try:
        yield
    except Exception as error:
        if checkpoints.epochs:
            error.add_note(f"earlier epochs are saved in {workdir}")
        error.add_note(
            "try a lower --learning-rate or --clip-norm, in another directory"
            if isinstance(error, NonFiniteLossError)
            else resume
        )
        raise


def _write_samples(train: Any, workdir: Path) -> None:
    """Draw the first training examples, if they are labelled images."""
    shape = np.shape(train.inputs) if isinstance(train, Split) else ()
    if is_first() and isinstance(train, Split) and train.class_names and shape[2] > 1:
        from jaxrnn.plotting import plot_samples

        write_figure(workdir / "samples.png", plot_samples(train))


def _write_results(workdir: Path, histories: Any, seeds: range, results: dict[str, Any]) -> None:
    from jaxrnn.plotting import plot_history  # takes a while to import

    write_figure(workdir / "curves.png", plot_history(histories))
    if len(histories) > 1:
        for seed, history in zip(seeds, histories, strict=True):
            history.to_csv(workdir / f"history-{seed}.csv")
    write_json(workdir / "results.json", results)
