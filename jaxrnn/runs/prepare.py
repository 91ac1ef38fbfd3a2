"""Prepare a run: data, the state at step 0, and their description in checkpoints."""

import dataclasses
import math
from collections.abc import Mapping
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
    """The parts of an experiment, built.

    Attributes:
      data: the data to train and evaluate on.
      train: the split to train on, or a stream of it.
      augment: the augmentation of training examples, or None.
      description: JSON that is stored with every checkpoint.
      state: the state to start from: at step 0, if nothing was restored.
      history: the epochs trained before.
      key: root key of the data order.
      mesh: devices that share each batch.
    """

    data: Datasets
    train: Split | Stream
    augment: Augment | None
    description: Json
    state: TrainState
    history: History
    key: jax.Array
    mesh: jax.sharding.Mesh


def prepare(experiment: Experiment, data: Datasets | None = None) -> Prepared:
    """Build the parts of an experiment.

    Args:
      experiment: a checked experiment.
      data: the result of :func:`build_data` for it, if there is one.

    Raises:
      ValueError: data, model and task don't fit each other; batches don't divide among processes;
        or the network doesn't fit in memory.
    """
    trainer, runtime = experiment.trainer, experiment.runtime
    data = build_data(experiment.data, runtime) if data is None else data
    description = _describe(experiment, data)
    init_key, key = jax.random.split(jax.random.key(trainer.seed))
    augment = experiment.augment.build() if experiment.augment is not None else None
    if augment is not None and (channels := description["channels"]) > 1:
        options = [
            f"--augment.{name} 0" for name, value in vars(experiment.augment).items() if value
        ]
        advice = f"give {' '.join(options)}"
        raise ValueError(f"images of {channels} channels cannot be warped; {advice}")
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
    state = initial_state(experiment, description, init_key)
    for split in (train, *data.evals.values()):
        check_fits(state, split)
    mesh = batch_mesh(trainer.batch_size, suitable_devices(state.params, runtime.devices))
    return Prepared(data, train, augment, description, state, History(), key, mesh)


def build_data(group: Any, runtime: RuntimeConfig) -> Datasets:
    """Build the data, and read the training split into memory unless it is streamed."""
    with default_dirs(runtime.data_dir, runtime.archives):
        data: Datasets = group.build()
    if isinstance(data.train, Source) and not runtime.stream:
        return dataclasses.replace(data, train=data.train.load())
    return data


def _describe(experiment: Experiment, data: Datasets) -> Json:
    """Describe the parts of a run, for its checkpoints.

    Raises:
      ValueError: data, model and task don't fit each other.
    """
    train, trainer, size = data.train, experiment.trainer, len(data.train)
    if trainer.batch_size > size:
        raise ValueError(
            f"--batch-size {trainer.batch_size} is larger than the training split of {size} "
            "examples"
        )
    in_memory = isinstance(train, Split) and not experiment.runtime.stream
    example = train.read([0])
    input_shape = np.shape(example["inputs"])[1:]
    if trainer.truncate is not None:
        check_truncation(example)
    return {
        "config": experiment.identity,
        "input_shape": list(input_shape),
        "outputs": data.outputs,
        "steps": _count_steps(size, input_shape[0], trainer, streamed=not in_memory),
        "class_names": list(getattr(train, "class_names", ())),
        "channels": getattr(train, "channels", 1),
        "pixels": len(input_shape) == 2 and example["inputs"].dtype == np.uint8,
        "pixel_max": data.pixel_max,
    }


def initial_state(
    experiment: Experiment, description: Mapping[str, Any], key: jax.Array | None
) -> TrainState:
    """Build model and optimizer, and their state at step 0; without a key, only its shapes.

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
      ValueError: the split doesn't allow this number of batches.
    """
    rest, steps = size % trainer.batch_size, trainer.steps_per_epoch
    chunks = math.ceil(time / (trainer.truncate or time))
    if steps is None:
        steps = size // trainer.batch_size + (rest > 0 and not trainer.drop_remainder)
    elif not streamed:
        raise ValueError("--steps-per-epoch is an option of streams; use --stream")
    elif rest and not trainer.drop_remainder:
        raise ValueError(
            f"--steps-per-epoch requires batches of equal size, but {size} examples leave one of "
            f"{rest}; use --drop-remainder"
        )
    return trainer.epochs * steps * chunks
