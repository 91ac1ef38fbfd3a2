"""Prepare a run: data, the state at step 0, and their description in checkpoints."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.data import Datasets, Source, Split, Stream, default_dirs, stream
from jaxrnn.files import Json
from jaxrnn.runs.config import Experiment, RuntimeConfig
from jaxrnn.training.epochs import Augment
from jaxrnn.training.fitting import TrainerConfig
from jaxrnn.training.forward import check_fits
from jaxrnn.training.history import History
from jaxrnn.training.sharding import batch_mesh, suitable_devices
from jaxrnn.training.state import TrainState, create_train_state
from jaxrnn.training.steps import check_truncation


class Prepared(NamedTuple):
    """The parts of an experiment, built; then what has been restored or trained of it."""

    data: Datasets
    train: Split | Stream  # of data.train
    augment: Augment | None
    description: Json  # stored with every checkpoint
    key: jax.Array  # root of the data order
    mesh: jax.sharding.Mesh  # devices that share each batch
    state: TrainState
    history: History = History()


def prepare(experiment: Experiment, data: Datasets | None = None) -> Prepared:
    """Build the parts of a checked experiment, whose ``data`` may have been built before.

    Raises:
      ValueError: they don't fit each other, the processes, or the memory.
    """
    trainer, runtime = experiment.trainer, experiment.runtime
    data = build_data(experiment.data, runtime) if data is None else data
    init_key, key = jax.random.split(jax.random.key(trainer.seed))
    in_memory = isinstance(data.train, Split) and not runtime.stream
    description = {"config": experiment.identity, **_describe(data, trainer, in_memory=in_memory)}
    augment = experiment.augment.build() if experiment.augment is not None else None
    if augment is not None and (channels := description["channels"]) > 1:
        raise ValueError(f"images of {channels} channels cannot be warped; set --augment to 0")
    train: Any = data.train
    if not in_memory:
        train = stream(
            train,
            key=key,
            batch_size=trainer.batch_size,
            drop_remainder=trainer.drop_remainder,
            steps_per_epoch=trainer.steps_per_epoch,
            workers=runtime.workers,
        )
    state = initial_state(experiment, description, init_key)
    mesh = batch_mesh(trainer.batch_size, suitable_devices(state.params, runtime.devices))
    check_fits(state, {"train": train, **data.evals})  # before there are files, unlike that of fit
    return Prepared(data, train, augment, description, key, mesh, state)


def build_data(group: Any, runtime: RuntimeConfig) -> Datasets:
    """Build the data, and read the training split into memory unless it is streamed."""
    with default_dirs(runtime.data_dir, runtime.archives):
        data: Datasets = group.build()
    if isinstance(data.train, Source) and not runtime.stream:
        return dataclasses.replace(data, train=data.train.load())
    return data


def _describe(data: Datasets, trainer: TrainerConfig, *, in_memory: bool) -> Json:
    """Describe the data of a run, for its checkpoints."""
    train, size = data.train, len(data.train)
    if trainer.batch_size > size:
        raise ValueError(
            f"--batch-size {trainer.batch_size} is larger than the training split of {size} "
            "examples"
        )
    example = train.read([0])
    input_shape = np.shape(example["inputs"])[1:]
    if trainer.truncate is not None:
        check_truncation(example)
    return {
        "input_shape": list(input_shape),
        "outputs": data.outputs,
        "steps": _count_steps(size, input_shape[0], trainer, in_memory=in_memory),
        "class_names": list(getattr(train, "class_names", ())),
        "channels": getattr(train, "channels", 1),
        "pixels": len(input_shape) == 2 and example["inputs"].dtype == np.uint8,
    }


def initial_state(experiment: Experiment, description: Json, key: jax.Array | None) -> TrainState:
    """Build model and optimizer, and their state at step 0; without a key, only its shapes."""
    try:
        return create_train_state(
            key,
            experiment.build_model(description["outputs"], key),
            experiment.optimizer.build(description["steps"]),
            jax.ShapeDtypeStruct((1, *description["input_shape"]), np.float32),
            experiment.task,
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"a network of this size does not fit in memory: {error}") from error


def _count_steps(size: int, time: int, trainer: TrainerConfig, *, in_memory: bool) -> int:
    """Count the updates of the whole training, on ``size`` examples of ``time`` steps."""
    rest, steps = size % trainer.batch_size, trainer.steps_per_epoch
    if steps is None:
        steps = size // trainer.batch_size + (rest > 0 and not trainer.drop_remainder)
    elif in_memory:
        raise ValueError("--steps-per-epoch is an option of streams; use --stream")
    elif rest and not trainer.drop_remainder:
        raise ValueError(
            f"--steps-per-epoch requires batches of equal size, but {size} examples leave one of "
            f"{rest}; use --drop-remainder"
        )
    return trainer.epochs * steps * math.ceil(time / (trainer.truncate or time))
