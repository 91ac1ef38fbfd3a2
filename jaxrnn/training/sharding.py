"""Devices, meshes and shardings: devices share each batch, with one all-reduce per step.

Data and parameters are replicated (MNIST as uint8 is 47 MB), so each device gathers its share of a
shuffled batch from its own memory, and only gradients move between devices.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jaxrnn.data.streams import Stream
from jaxrnn.nn.cells import is_recurrent_kernel

_AXIS = "batch"
_FIRST, _ALL = PartitionSpec(_AXIS), PartitionSpec()  # divided along the first axis; replicated

Tree = TypeVar("Tree")
Sums = TypeVar("Sums")


def use_cpu_cores(count: int | None = None) -> None:
    """Make XLA use one CPU device per core, or ``count`` of them, instead of a single one.

    With small matrix products, this is faster than dividing each product among the cores. It has no
    effect once JAX has used a device.
    """
    with contextlib.suppress(RuntimeError):  # JAX has used its devices already
        jax.config.update("jax_num_cpu_devices", count or available_cores())


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def suitable_devices(params: chex.ArrayTree, devices: int | None = None) -> int | None:
    """Return ``devices`` or by default, on a CPU, 1 for layers of 512 or more recurrent units.

    A kernel of that width does not fit in a core's cache, so every device would read it from memory
    at each time step. None stands for as many as divide the batch.
    """
    if devices is not None or jax.default_backend() != "cpu":
        return devices
    leaves = jax.tree_util.tree_leaves_with_path(params)
    wide = any(is_recurrent_kernel(path, leaf) and leaf.shape[-1] >= 512 for path, leaf in leaves)
    return 1 if wide else None


def batch_mesh(batch_size: int, devices: int | None = None) -> Mesh:
    """Choose the largest number of devices, at most ``devices``, that divides the batch.

    Each of several processes contributes the same number of its own devices, at most ``devices``.

    Raises:
      ValueError: ``devices`` is below 1 or more than there are, or the batch can't be divided among
        the processes.
    """
    # The same in all processes; with different meshes they would deadlock.
    local = [jax.local_devices(process) for process in range(jax.process_count())]
    available = min(map(len, local))
    wanted = available if devices is None else devices
    if not 1 <= wanted <= available:
        raise ValueError(f"devices must be between 1 and {available}; got {wanted}")
    counts = [n for n in range(1, wanted + 1) if batch_size % (n * len(local)) == 0]
    if not counts:
        raise ValueError(
            f"the batch size must be divisible by the number of processes ({len(local)}); got "
            f"{batch_size}"
        )
    # Unlike jax.make_mesh, which orders TPUs by their torus, this keeps the devices of a process
    # together, so that the rows of a batch that it reads are one slice.
    chosen = np.concatenate([devices[: counts[-1]] for devices in local])
    return Mesh(chosen, (_AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Copy each array to every device of the mesh; streams stay as they are."""
    sharding = NamedSharding(mesh, _ALL)
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, Stream) else jax.device_put(leaf, sharding), tree
    )


def own_part(mesh: Mesh, batch_size: int) -> tuple[slice, int]:
    """Return the rows of each batch that this process reads, and the number of its devices."""
    share, count = batch_size // mesh.size, len(mesh.local_devices)
    first = jax.process_index() * count
    return slice(first * share, (first + count) * share), count


def put_examples(arrays: Tree, mesh: Mesh, *, sharded: bool) -> Tree:
    """Put arrays on the devices, divided among them (each process gives its rows) or replicated."""
    sharding = NamedSharding(mesh, _FIRST if sharded else _ALL)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), arrays
    )


def over_devices(
    function: Callable[..., tuple[Tree, Sums]],
    state: Any,
    examples: Any,
    rows: Int[chex.Array, "steps batch"],
    *others: Any,
    mesh: Mesh | None,
) -> tuple[Tree, Sums]:
    """Call a function on every device, with its part of each batch.

    The columns of ``rows`` are divided among the devices; for a batch, the examples are. The
    function returns a state, the same on each device, and metrics, which are summed.
    """
    if mesh is None or mesh.size == 1:
        return function(state, examples, rows, *others)

    def on_device(*arguments: Any) -> tuple[Tree, Sums]:
        state, metrics = function(*arguments)
        return state, jax.lax.psum(metrics, _AXIS)

    parts = (_FIRST, _ALL) if isinstance(examples, dict) else (_ALL, PartitionSpec(None, _AXIS))
    specs = _ALL, *parts, *(_ALL for _ in others)
    # check_vma would require every scan inside, Flax's included, to declare what varies.
    run = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=_ALL, check_vma=False)
    return run(state, examples, rows, *others)


def own_row_numbers(share: int, mesh: Mesh | None) -> Int[Array, " share"]:
    """Return the row numbers, in the whole batch, of this device's share."""
    first = 0 if mesh is None or mesh.size == 1 else jax.lax.axis_index(_AXIS) * share
    return first + jnp.arange(share)


def sum_over_devices(tree: Tree, mesh: Mesh | None) -> Tree:
    """Sum the arrays of a pytree, all of one dtype, over the devices, in one all-reduce."""
    if mesh is None or mesh.size == 1:
        return tree
    if mesh.is_multi_process:  # gloo sends each array in a message of its own, which is slow
        flat, unravel = ravel_pytree(tree)
        return unravel(jax.lax.psum(flat, _AXIS))
    # XLA combines these sums. If they were concatenated here as well, it would fuse the reduction
    # of each gradient into the concatenation, and compute it again for each of its elements.
    return jax.lax.psum(tree, _AXIS)


def in_any_process(condition: bool) -> bool:
    """Return whether a condition holds in any process; every process must call this."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.array(condition))))
