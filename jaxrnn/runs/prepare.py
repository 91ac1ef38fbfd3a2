"""Prepare a run: devices, data, the state at step 0, and what checkpoints say of them."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import platformdirs

from jaxrnn.data import Datasets, Source, Split, Stream, default_places, stream
from jaxrnn.data.splits import arrays_of
from jaxrnn.runs.config import Experiment, RuntimeConfig
from jaxrnn.runs.hooks import check_tensorboard
from jaxrnn.runs.processes import processes
from jaxrnn.training.epochs import Augment
from jaxrnn.training.fitting import TrainerConfig
from jaxrnn.training.forward import check_fits
from jaxrnn.training.sharding import batch_mesh, suitable_devices, use_cpu_cores
from jaxrnn.training.state import TrainState, create_train_state
from jaxrnn.training.steps import check_truncation


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


class Prepared(NamedTuple):
    """What an experiment consists of, built.

    Attributes:
      data: what it trains and evaluates on.
      train: the split to train on, or a stream of it.
      augment: what changes the training examples; None if nothing does.
      description: what its checkpoints say of it, in JSON.
      state: at step 0.
      key: root of the data order.
      mesh: devices that share each batch.
    """

    data: Datasets
    train: Split | Stream
    augment: Augment | None
    description: dict[str, Any]
    state: TrainState
    key: jax.Array
    mesh: jax.sharding.Mesh


def prepare(experiment: Experiment, data: Datasets | None = None) -> Prepared:
    """Build what an experiment consists of.

    Args:
      experiment: one that has been checked.
      data: what :func:`build_data` returned for it before.

    Raises:
      ValueError: data, model and task don't fit each other; batches don't divide among processes;
        or the network doesn't fit in memory.
    """
    trainer, runtime = experiment.trainer, experiment.runtime
    batch_mesh(trainer.batch_size, runtime.devices)  # raises for a wrong number before data is read
    data = build_data(experiment.data, runtime) if data is None else data
    description = _describe(experiment, data)
    shapes = initial_state(experiment, description, None)
    for split in (data.train, *data.evals.values()):
        check_fits(shapes, split)
    init_key, key = jax.random.split(jax.random.key(trainer.seed))
    state = initial_state(experiment, description, init_key)
    mesh = batch_mesh(trainer.batch_size, suitable_devices(state.params, runtime.devices))
    augment = _augmentation(experiment.augment, data.train)
    train: Any = data.train
    if runtime.stream or not isinstance(train, Split):
        train = stream(
            train,
            key=key,
            batch_size=trainer.batch_size,
            drop_remainder=trainer.drop_remainder,
            steps_per_epoch=trainer.steps_per_epoch,
            workers=runtime.workers,
        )
    return Prepared(data, train, augment, description, state, key, mesh)


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
