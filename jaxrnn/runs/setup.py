"""Setup: the data and the initial state of a run, from the groups of its experiment."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs

from jaxrnn.data import Datasets, Source, Split, default_places
from jaxrnn.parallel import batch_mesh, member_mesh
from jaxrnn.runs.checks import check_fits
from jaxrnn.runs.experiment import RuntimeConfig, TrainerConfig
from jaxrnn.state import TrainState, create_train_state


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache directory, unless JAX is set to use another."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        directory = platformdirs.user_cache_dir("jaxrnn")
        jax.config.update("jax_compilation_cache_dir", f"{directory}/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def choose_devices(trainer: TrainerConfig, devices: int | None) -> list[str]:
    """The devices that a run uses: the platform of each and, if that says more, its kind.

    Raises:
      ValueError: networks or batches don't divide among the processes, or there are fewer devices.
    """
    if trainer.seeds > 1:
        processes = jax.process_count()
        if trainer.seeds % processes:
            raise ValueError(f"--seeds {trainer.seeds} don't divide among {processes} processes")
        mesh, _ = member_mesh(trainer.seeds, devices)
    else:
        mesh = batch_mesh(trainer.batch_size, devices)
    return [" ".join(dict.fromkeys((one.platform, one.device_kind))) for one in mesh.devices.flat]


def build_data(group: Any, runtime: RuntimeConfig) -> Datasets:
    """Build the data, and read the training split into memory unless it is streamed."""
    with default_places(runtime.data_dir, runtime.archives):
        data: Datasets = group.build()
    if isinstance(data.train, Source) and not runtime.stream:
        return Datasets(train=data.train.load(), evals=data.evals, outputs=data.outputs)
    return data


def build_augmentation(group: Any, train: Any) -> Any:
    """Build what changes the training examples; None if nothing does.

    Raises:
      ValueError: the examples are images of several channels.
    """
    augment = group.build() if group is not None else None
    if augment is not None and getattr(train, "channels", 1) > 1:
        raise ValueError(
            f"images of {train.channels} channels cannot be augmented; set the options of augment "
            "to 0"
        )
    return augment


def batches_per_epoch(train: Any, trainer: TrainerConfig, *, streamed: bool) -> int:
    """The number of steps in an epoch.

    Raises:
      ValueError: the training split doesn't allow batches of this size or number.
    """
    size, batch_size = len(train), trainer.batch_size
    if batch_size > size:
        raise ValueError(
            f"--batch-size {batch_size} is larger than the training split of {size} examples"
        )
    if streamed and trainer.seeds > 1:
        raise ValueError("--stream trains one network; use --seeds 1")
    if trainer.steps_per_epoch is None:
        return (math.floor if trainer.drop_remainder else math.ceil)(size / batch_size)
    if not streamed:
        raise ValueError("--steps-per-epoch is an option of streams; use --stream")
    if size % batch_size and not trainer.drop_remainder:
        raise ValueError(
            f"--steps-per-epoch requires batches of equal size, but {size} examples leave one of "
            f"{size % batch_size}; use --drop-remainder"
        )
    return trainer.steps_per_epoch


@dataclass(frozen=True)
class Network:
    """A model, its task and its optimizer, on inputs of one shape."""

    model: Any
    task: Any
    optimizer: Any
    input_shape: Sequence[int]

    @classmethod
    def of(cls, model: Any, task: Any, optimizer: Any, data: Datasets, steps: int) -> "Network":
        """Build the model and the optimizer from their groups, for this data and training."""
        train = data.train
        inputs = train.inputs if isinstance(train, Split) else train.read([0])["inputs"]
        return cls(model.build(data.outputs), task, optimizer.build(steps), np.shape(inputs)[1:])

    def initial_state(self, key: jax.Array) -> TrainState:
        """The state at step 0."""
        example = jax.ShapeDtypeStruct((1, *self.input_shape), np.float32)
        return create_train_state(key, self.model, self.optimizer, example, self.task)

    def shapes(self, members: Sequence[int] = ()) -> TrainState:
        """The shapes of the state, of N networks if members is (N,); nothing is compiled."""
        one = jax.eval_shape(self.initial_state, jax.random.key(0))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*members, *leaf.shape), leaf.dtype), one
        )

    def check(self, *splits: Any) -> None:
        """Check that the outputs fit the task and the data; raises ``ValueError``."""
        shapes = self.shapes()
        for split in splits:
            check_fits(shapes, split)


def initial_states(network: Network, trainer: TrainerConfig) -> tuple[TrainState, jax.Array]:
    """The state at step 0 and the root of the data order; of several networks, stacked.

    Raises:
      ValueError: the networks don't fit in memory.
    """
    seeds = range(trainer.seed, trainer.seed + trainer.seeds)
    keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    try:
        states = [network.initial_state(init_key) for init_key, _ in keys]
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"a network of this size does not fit in memory: {error}") from error
    if trainer.seeds == 1:
        return states[0], keys[0][1]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    return stacked, jnp.stack([data_key for _, data_key in keys])
