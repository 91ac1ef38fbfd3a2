"""Compile an epoch for accelerators that are not present."""

import importlib.util
import os
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.mnist_rnn import MnistRNN
from jaxrnn import Split, create_train_state, train_epoch

# The description of the GPU that XLA needs; numbers from NVIDIA's data sheet and device queries.
_H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 12 }
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
"""


@dataclass(frozen=True)
class Target:
    """Devices to compile for."""

    name: str
    platform: str
    module: str
    """The Python module that holds the compiler."""
    topology: str
    options: dict[str, Any]

    def devices(self) -> list[jax.Device]:
        """Return the devices, none of which can run anything.

        Raises:
          ModuleNotFoundError: the compiler is not installed.
        """
        package = self.module.partition(".")[0]
        if not importlib.util.find_spec(package) or not importlib.util.find_spec(self.module):
            raise ModuleNotFoundError(
                f"no compiler for {self.name}: install the extra 'accelerators', "
                "as in pip install -e '.[accelerators]'"
            )
        topology = topologies.get_topology_desc(self.topology, self.platform, **self.options)
        return list(topology.devices)


_GPU = {"target_config": _H100, "topology": "1x1x1"}
_ONE_CHIP = {"chips_per_host_bounds": [1, 1, 1]}
TARGETS = {
    "h100": Target("one H100", "cuda", "jax_plugins.xla_cuda13", "H100", _GPU),
    "v5e": Target("one TPU v5e", "tpu", "libtpu", "v5e:1x1", _ONE_CHIP),
    "v5e-4": Target("four TPU v5e", "tpu", "libtpu", "v5e:2x2", {}),
}


@dataclass(frozen=True)
class Program:
    """An epoch, compiled for some devices."""

    text: str
    steps: int
    batch_size: int
    memory: int
    """Bytes on each device: arguments, outputs and temporaries."""
    seconds: float
    """Seconds to compile."""


def without_devices() -> None:
    """Keep JAX from looking for accelerators, and compilers from querying the host machine."""
    jax.config.update("jax_platforms", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def compile_epoch(experiment: MnistRNN, target: Target, examples: int) -> Program:
    """Compile one epoch of whole batches of images, (28, 28) pixels in 10 classes.

    The batch size is rounded up to a multiple of the number of devices.
    """
    devices = target.devices()
    batch_size = -(-experiment.trainer.batch_size // len(devices)) * len(devices)
    steps = examples // batch_size
    if not steps:
        raise ValueError(f"--examples must be at least a batch of {batch_size}; got {examples}")
    mesh = Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))
    model = experiment.model.build(10)
    optimizer = experiment.optimizer.build(steps * experiment.trainer.epochs)

    def arguments() -> tuple[Any, Split, jax.Array]:
        pixels = jnp.zeros((examples, 28, 28), jnp.uint8)
        key = jax.random.key(0)
        state = create_train_state(key, model, optimizer, pixels, experiment.task)
        return state, Split(pixels, jnp.zeros(examples, jnp.int32)), key

    replicated = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
        jax.eval_shape(arguments),
    )
    fixed: Any = {"batch_size": batch_size, "drop_remainder": True, "mesh": mesh}
    fixed |= {"augment": experiment.augment.build()}
    lowered = train_epoch.lower(*shapes, **fixed)
    begun = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begun
    sizes: Any = compiled.memory_analysis()
    memory = sum(getattr(sizes, f"{kind}_size_in_bytes") for kind in ("argument", "output", "temp"))
    memory -= sizes.alias_size_in_bytes
    return Program(compiled.as_text() or "", steps, batch_size, memory, seconds)
