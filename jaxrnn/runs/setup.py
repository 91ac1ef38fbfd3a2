"""Setup: data, devices and initial state of a run, from the groups of its experiment."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs

from jaxrnn.data import Datasets, Source, Split, default_places
from jaxrnn.data.splits import arrays_of
from jaxrnn.runs.config import Experiment, RuntimeConfig, TrainerConfig
from jaxrnn.training.checks import check_fits
from jaxrnn.training.clock import Clock
from jaxrnn.training.sharding import batch_mesh, member_mesh, suitable_devices
from jaxrnn.training.state import TrainState, create_train_state
from jaxrnn.training.steps import check_truncation

Initializer = Callable[[jax.Array | None], TrainState]


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache directory, unless JAX is set to use another."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        directory = Path(platformdirs.user_cache_dir("jaxrnn"), "compiled")
        with contextlib.suppress(OSError):  # no such directory can be made: compile every time
            directory.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def check_jax(devices: int | None) -> None:
    """Check that JAX has devices, and is set up so that training can use them.

    Raises:
      ValueError: it has none, or is set up otherwise.
    """
    config: Any = jax.config
    try:
        count = min(len(jax.local_devices()), devices or sys.maxsize)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"JAX finds no device for JAX_PLATFORMS={config.jax_platforms}; without it, JAX takes "
            "what there is"
        ) from error
    if config.jax_disable_jit and count > 1:
        raise ValueError("with JAX_DISABLE_JIT, JAX cannot divide batches; use --devices 1")
    if "disallow" in str(config.jax_transfer_guard_host_to_device or ""):
        raise ValueError("JAX_TRANSFER_GUARD keeps data off the devices; set it to log or allow")


def choose_mesh(trainer: TrainerConfig, devices: int | None, params: Any = ()) -> jax.sharding.Mesh:
    """Choose the devices for several networks or, for one, those that share its batches.

    A single wide network gets fewer; see :func:`jaxrnn.training.sharding.suitable_devices`.

    Raises:
      ValueError: they don't divide among the processes, or there are fewer devices.
    """
    if trainer.seeds == 1:
        return batch_mesh(trainer.batch_size, suitable_devices(params, devices))
    if trainer.seeds % jax.process_count():
        raise ValueError(
            f"--seeds {trainer.seeds} don't divide among {jax.process_count()} processes"
        )
    return member_mesh(trainer.seeds, devices)[0]


def build_data(group: Any, runtime: RuntimeConfig) -> Datasets:
    """Build the data, and read the training split into memory unless it is streamed."""
    with default_places(runtime.data_dir, runtime.archives):
        data: Datasets = group.build()
    if isinstance(data.train, Source) and not runtime.stream:
        return dataclasses.replace(data, train=data.train.load())
    return data


def prepare(
    experiment: Experiment, clock: Clock, data: Datasets | None = None
) -> tuple[Datasets, dict[str, Any], TrainState, jax.Array]:
    """The data, the description for checkpoints, the state at step 0, and the root key."""
    trainer, runtime = experiment.trainer, experiment.runtime
    choose_mesh(trainer, runtime.devices)  # raises for a wrong number before data is read
    with clock("preparation"):
        data = data or build_data(experiment.data, runtime)
    train = data.train
    streamed = runtime.stream or not isinstance(train, Split)
    arrays = arrays_of(train) if isinstance(train, Split) else train.read([0])
    input_shape = np.shape(arrays["inputs"])[1:]
    steps = count_steps(len(train), input_shape[0], trainer, streamed=streamed)
    initial = initializer(
        experiment.model.build(data.outputs),
        experiment.optimizer.build(steps),
        experiment.task,
        input_shape,
    )
    shapes = shapes_of(initial)
    for split in (train, *data.evals.values()):
        check_fits(shapes, split)
    if trainer.truncate is not None:
        check_truncation(arrays)
    with clock("training"):
        state, key = initial_states(initial, trainer)
    description = {
        "config": experiment.identity,
        "input_shape": list(input_shape),
        "outputs": data.outputs,
        "steps": steps,
        "members": list(np.shape(state.step)),
        "class_names": list(getattr(train, "class_names", ())),
        "channels": getattr(train, "channels", 1),
        "pixels": len(input_shape) == 2 and arrays["inputs"].dtype == np.uint8,
    }
    return data, description, state, key


def build_augmentation(group: Any, train: Any) -> Any:
    """Build what changes the training examples; None if nothing does.

    Raises:
      ValueError: the examples are images of several channels.
    """
    augment = group.build() if group is not None else None
    channels = getattr(train, "channels", 1)
    if augment is not None and channels > 1:
        raise ValueError(f"images of {channels} channels cannot be warped; set --augment to 0")
    return augment


def count_steps(size: int, time: int, trainer: TrainerConfig, *, streamed: bool) -> int:
    """The number of updates of the whole training, on ``size`` examples of ``time`` steps.

    Raises:
      ValueError: the split doesn't allow batches of this size or number.
    """
    batch_size, rest = trainer.batch_size, size % trainer.batch_size
    chunks = math.ceil(time / (trainer.truncate or time))
    if batch_size > size:
        raise ValueError(
            f"--batch-size {batch_size} is larger than the training split of {size} examples"
        )
    if streamed and trainer.seeds > 1:
        raise ValueError("--stream trains one network; use --seeds 1")
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


def initializer(model: Any, optimizer: Any, task: Any, input_shape: Sequence[int]) -> Initializer:
    """A function from a key to the state at step 0, or from None to its shapes."""
    example = jax.ShapeDtypeStruct((1, *input_shape), np.float32)  # the type does not matter
    return partial(create_train_state, model=model, optimizer=optimizer, example=example, task=task)


def shapes_of(initial: Initializer, members: Sequence[int] = ()) -> TrainState:
    """The shapes of a state, of N networks if members is (N,); nothing is compiled."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*members, *leaf.shape), leaf.dtype),
        initial(None),
    )


def initial_states(initial: Initializer, trainer: TrainerConfig) -> tuple[TrainState, jax.Array]:
    """The state at step 0 and the root of the data order; of several networks, stacked.

    Raises:
      ValueError: the networks don't fit in memory.
    """
    seeds = range(trainer.seed, trainer.seed + trainer.seeds)
    keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    try:
        states = [initial(init_key) for init_key, _ in keys]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"a network of this size does not fit in memory: {error}") from error
    if trainer.seeds == 1:
        return states[0], keys[0][1]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    return stacked, jnp.stack([data_key for _, data_key in keys])
