"""run: prepare an experiment, restore it, train it and leave its results."""

import contextlib
import dataclasses
import importlib
import math
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs

from jaxrnn.data import Datasets, Source, Split, default_places, stream
from jaxrnn.data.splits import arrays_of
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
    write_results,
)
from jaxrnn.runs.signals import interruption
from jaxrnn.runs.tensorboard import Events, check_tensorboard
from jaxrnn.runs.workdir import check_workdir, open_workdir, restore, rewrite_history
from jaxrnn.training.epochs import Augment
from jaxrnn.training.fitting import Hook, Record, TrainerConfig, fit
from jaxrnn.training.forward import check_fits
from jaxrnn.training.history import Clock, History, best_epoch, has_stalled
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.sharding import batch_mesh, suitable_devices, use_cpu_cores
from jaxrnn.training.state import TrainState, create_train_state
from jaxrnn.training.steps import check_truncation


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
    """Set up devices, the cache of compiled programs and, with several, the processes of runs.

    Raises:
      ValueError: JAX has no such devices, or is set up so that training can't use them.
    """
    if runtime.tensorboard:
        check_tensorboard()
    use_cpu_cores(runtime.devices)
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        directory = Path(platformdirs.user_cache_dir("jaxrnn"), "compiled")
        with contextlib.suppress(OSError):  # no such directory can be made: compile every time
            directory.mkdir(parents=True, exist_ok=True)
            config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with processes(runtime):
        try:
            count = min(len(jax.local_devices()), runtime.devices or sys.maxsize)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"JAX finds no device for JAX_PLATFORMS={config.jax_platforms}; without it, JAX "
                "takes what there is"
            ) from error
        if config.jax_disable_jit and count > 1:
            raise ValueError("with JAX_DISABLE_JIT, JAX cannot divide batches; use --devices 1")
        if "disallow" in str(config.jax_transfer_guard_host_to_device or ""):
            raise ValueError(
                "JAX_TRANSFER_GUARD keeps data off the devices; set it to log or allow"
            )
        yield


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
    batch_mesh(trainer.batch_size, runtime.devices)  # raises for a wrong number before data is read
    with clock("preparation"):
        data = build_data(experiment.data, runtime) if data is None else data
    description = _describe(experiment, data)
    shapes = initial_state(experiment, description, None)
    for split in (data.train, *data.evals.values()):
        check_fits(shapes, split)
    with clock("training"):
        init_key, key = jax.random.split(jax.random.key(trainer.seed))
        state = initial_state(experiment, description, init_key)
    mesh = batch_mesh(trainer.batch_size, suitable_devices(state.params, runtime.devices))
    with contextlib.ExitStack() as held:
        opened = open_workdir(runtime.workdir, name, check)
        workdir = Path(from_first(lambda: str(held.enter_context(opened))))
        checkpoints = Checkpoints(workdir / "checkpoints", description)
        restored = restore(workdir, checkpoints, state, experiment.check_same)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        say(
            f"{name}: {parameters:,} parameters, {len(data.train):,} training examples, "
            f"on {describe_mesh(mesh)}; files in {workdir}"
        )
        if is_first():
            write_json(workdir / "config.json", experiment.to_json())
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
            past = restored or (state, History(), key)
            state, history = _train(experiment, data, past, workdir, hooks, clock)
            early = has_stalled(history, experiment.task, trainer.patience)
            if not early and len(history) < trainer.epochs:
                say(f"stopped; earlier epochs are saved in {workdir}\nto resume: {resume}")
                # If another process received the signal, this one ends as that one does.
                raise Stopped(interrupted.exit_status or 128 + signal.SIGTERM)
            state, epoch = _kept(experiment, checkpoints, state, history)
            about = {"seed": trainer.seed, "parameters": parameters, "stopped_early": early}
            about |= {"devices": describe_devices(mesh), "seconds": clock.seconds}
            results = results_of(history, experiment.task, epoch, **about)
            if is_first():
                write_results(workdir, state, data, history, results, pictures=pictures)
    sample = runtime.sample and draw_sample(state, data.train, runtime.sample, trainer.seed)
    _tell_results(experiment, data, results, workdir, sample)
    return results


def build_data(group: Any, runtime: RuntimeConfig) -> Datasets:
    """Build the data, and read the training split into memory unless it is streamed."""
    with default_places(runtime.data_dir, runtime.archives):
        data: Datasets = group.build()
    if isinstance(data.train, Source) and not runtime.stream:
        return dataclasses.replace(data, train=data.train.load())
    return data


def _describe(experiment: Experiment, data: Datasets) -> dict[str, Any]:
    """Describe what a run consists of, for its checkpoints.

    Raises:
      ValueError: data, model and task don't fit each other.
    """
    train, trainer = data.train, experiment.trainer
    in_memory = isinstance(train, Split) and not experiment.runtime.stream
    arrays = arrays_of(train) if isinstance(train, Split) else train.read([0])
    input_shape = np.shape(arrays["inputs"])[1:]
    steps = _count_steps(len(train), input_shape[0], trainer, streamed=not in_memory)
    if trainer.truncate is not None:
        check_truncation(arrays)
    return {
        "config": experiment.identity,
        "input_shape": list(input_shape),
        "outputs": data.outputs,
        "steps": steps,
        "class_names": list(getattr(train, "class_names", ())),
        "channels": getattr(train, "channels", 1),
        "pixels": len(input_shape) == 2 and arrays["inputs"].dtype == np.uint8,
    }


def initial_state(
    experiment: Experiment, description: Mapping[str, Any], key: jax.Array | None
) -> TrainState:
    """Build model and optimizer, and their state at step 0; without a key, its shapes.

    Raises:
      ValueError: the network does not fit in memory.
    """
    try:
        return create_train_state(
            key,
            experiment.model.build(description["outputs"]),
            experiment.optimizer.build(description["steps"]),
            jax.ShapeDtypeStruct((1, *description["input_shape"]), np.float32),
            experiment.task,
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"a network of this size does not fit in memory: {error}") from error


def _count_steps(size: int, time: int, trainer: TrainerConfig, *, streamed: bool) -> int:
    """Count the updates of the whole training, on ``size`` examples of ``time`` steps.

    Raises:
      ValueError: the split doesn't allow batches of this size or number.
    """
    batch_size, rest = trainer.batch_size, size % trainer.batch_size
    chunks = math.ceil(time / (trainer.truncate or time))
    if batch_size > size:
        raise ValueError(
            f"--batch-size {batch_size} is larger than the training split of {size} examples"
        )
    if trainer.steps_per_epoch is None:
        a_pass = (math.floor if trainer.drop_remainder else math.ceil)(size / batch_size)
        return trainer.epochs * a_pass * chunks
    if not streamed:
        raise ValueError("--steps-per-epoch is an option of streams; use --stream")
    if rest and not trainer.drop_remainder:
        raise ValueError(
            f"--steps-per-epoch requires batches of equal size, but {size} examples leave one of "
            f"{rest}; use --drop-remainder"
        )
    return trainer.epochs * trainer.steps_per_epoch * chunks


def _train(
    experiment: Experiment,
    data: Datasets,
    past: tuple[TrainState, History, jax.Array],
    workdir: Path,
    hooks: Sequence[Hook],
    clock: Clock,
) -> tuple[TrainState, History]:
    """Train up to the last epoch, or until a hook stops it."""
    trainer, runtime, (state, history, key) = experiment.trainer, experiment.runtime, past
    train, order = data.train, {"key": key}
    if runtime.stream or not isinstance(train, Split):
        train = stream(
            train,
            key=order.pop("key"),
            batch_size=trainer.batch_size,
            drop_remainder=trainer.drop_remainder,
            steps_per_epoch=trainer.steps_per_epoch,
            workers=runtime.workers,
        )
    seconds: dict[str, float] = {}

    def write_history(record: Record) -> None:
        if is_first():
            record.history.to_csv(workdir / "history.csv")

    done = len(history)
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
            about = pool.submit(write_about, workdir, model, data.train)
            own += experiment.hooks()
            if runtime.tensorboard:
                own.append(opened.enter_context(Events(workdir / "events", [*data.evals], done)))
        state, history = fit(
            state,
            train,
            trainer,
            evals=data.evals,
            augment=_augmentation(experiment.augment, data.train),
            history=history,
            hooks=[
                write_history,
                *hooks,
                progress,
                *own,
                lambda record: seconds.update(record.seconds),
            ],
            devices=runtime.devices,
            **order,
        )
        if is_first():
            about.result()
    for phase, value in seconds.items():
        clock.seconds[phase] = clock.seconds.get(phase, 0.0) + value
    return state, history


def _augmentation(group: Any, train: Any) -> Augment | None:
    """Build what changes the training examples; None if nothing does.

    Raises:
      ValueError: the examples are images of several channels.
    """
    augment = group.build() if group is not None else None
    channels = getattr(train, "channels", 1)
    if augment is not None and channels > 1:
        raise ValueError(f"images of {channels} channels cannot be warped; set --augment to 0")
    return augment


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


def _tell_results(
    experiment: Experiment, data: Datasets, results: Mapping[str, Any], workdir: Path, sample: str
) -> None:
    """Print the metrics that count, and the commands that go on from here."""
    command, directory = experiment.command, shlex.quote(str(workdir))
    if sample:
        say(sample)
    for line in describe_results(results, data.evals, experiment.task):
        say(line)
    say(f"curves: {workdir / 'curves.png'}")
    say(f"to evaluate: {command} evaluate {directory}")
    if experiment.can_grow and not results["stopped_early"]:
        say(f"to continue: {command} resume {directory} --epochs {2 * experiment.trainer.epochs}")
