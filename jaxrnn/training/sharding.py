"""Devices, meshes and shardings: a batch is shared by devices, with one all-reduce per step.

Data and parameters are replicated (MNIST as uint8 is 47 MB), so each device gathers its share of a
shuffled batch from its own memory, and only gradients move between devices.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrnn.nn.cells import is_recurrent_kernel

_AXIS = "batch"
_ROWS = PartitionSpec(None, _AXIS)  # of (steps, batch, …): each device has its part of every batch


def use_cpu_cores(count: int | None = None) -> None:
    """Make XLA use one CPU device per core, or ``count`` of them, instead of a single one.

    Steps of small matrix products keep cores busier as several devices, each with its own share of
    the batch, than as one device whose products are split. Call this before JAX uses a device;
    afterwards it has no effect. Other platforms are not affected.
    """
    with contextlib.suppress(RuntimeError):  # JAX has used its devices already
        jax.config.update("jax_num_cpu_devices", count or available_cores())


def available_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def suitable_devices(params: Any, devices: int | None = None) -> int | None:
    """Return ``devices`` or, if it is None, a default that suits one network.

    The default is 1 on a CPU if a layer has 512 or more recurrent units, and otherwise None, as
    many as divide the batch. A kernel that wide does not fit in a core's cache, so every device
    would read it from memory at each time step.
    """
    if devices is not None or jax.default_backend() != "cpu":
        return devices
    leaves = jax.tree_util.tree_leaves_with_path(params)
    wide = any(is_recurrent_kernel(path, leaf) and leaf.shape[-1] >= 512 for path, leaf in leaves)
    return 1 if wide else None


def batch_mesh(batch_size: int, devices: int | None = None) -> Mesh:
    """Choose the largest number of devices, at most ``devices``, that divides the batch.

    With several processes (``jax.distributed.initialize``), each contributes the same number of its
    own devices, at most ``devices``.

    Raises:
      ValueError: ``devices`` is below 1 or more than there are, or the batch doesn't divide among
        the processes.
    """
    processes = jax.process_count()
    # The same in all processes; with different meshes they would wait for each other.
    available = min(len(jax.local_devices(process)) for process in range(processes))
    wanted = available if devices is None else devices
    if not 1 <= wanted <= available:
        raise ValueError(f"devices must be between 1 and {available}; got {wanted}")
    counts = [n for n in range(1, wanted + 1) if batch_size % (n * processes) == 0]
    if not counts:
        more = -(-batch_size // processes) * processes
        raise ValueError(
            f"a batch of {batch_size} doesn't divide among {processes} processes; use {more}"
        )
    chosen = [
        device
        for process in range(processes)
        for device in jax.local_devices(process)[: counts[-1]]
    ]
    # Unlike jax.make_mesh, which orders TPUs by their torus, this keeps the devices of a process
    # together, so that the rows of a batch that it reads are one slice.
    return Mesh(np.array(chosen), (_AXIS,), axis_types=(AxisType.Auto,))


def member_mesh(members: int, devices: int | None = None) -> tuple[Mesh, int]:
    """Choose a mesh for N networks, and the number to pad them to, for equal shares.

    Raises:
      ValueError: as :func:`batch_mesh`.
    """
    mesh = batch_mesh(0, devices)  # any number divides 0
    share = -(-members // mesh.size)
    if jax.process_count() > 1:
        return mesh, share * mesh.size
    used = -(-members // share)
    return batch_mesh(share * used, used), share * used


def place(
    state: Any, key: jax.Array, batch_size: int, devices: int | None
) -> tuple[Mesh, Any, jax.Array]:
    """Place one state on the devices that share its batches or, with N keys, those of N networks.

    N networks are padded with copies so that every device gets the same number.

    Returns:
      The mesh, and the state and the key or keys to train with.

    Raises:
      ValueError: as :func:`batch_mesh`.
    """
    if not key.ndim:
        mesh = batch_mesh(batch_size, suitable_devices(state.params, devices))
        return mesh, replicate(state, mesh), key
    mesh, padded = member_mesh(key.size, devices)
    if padded > key.size:
        again = np.arange(padded) % key.size
        state, key = jax.tree.map(lambda leaf: leaf[again], (state, key))
    return mesh, distribute(state, mesh), key


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copy each array to every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def over_devices(
    function: Callable[..., Any], mesh: Mesh | None, *, divided: int | None = None
) -> Callable[..., Any]:
    """Run ``function`` on every device of the mesh, with the same arguments and the same result.

    Inside, :func:`own_share` takes a device's part and :func:`sum_over_devices` adds the parts up.
    Of argument number ``divided``, arrays (steps, batch, …), each device gets its rows.
    """
    if mesh is None or mesh.size == 1:
        return function
    everywhere = PartitionSpec()

    def on_each_device(*arguments: Any) -> Any:
        specs = tuple(
            _ROWS if number == divided else everywhere for number in range(len(arguments))
        )
        # check_vma would require every scan inside, Flax's included, to declare what varies.
        return jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False
        )(*arguments)

    return on_each_device


def for_each_member(
    function: Callable[..., Any], members: Any, shared: Any, mesh: Mesh | None
) -> Any:
    """Compute ``function(member, shared)`` for each of N members, which the devices share.

    ``members`` is a pytree of arrays with a leading axis of N, a multiple of the number of devices,
    and so is the result. Nothing moves between devices. A device computes its members one after the
    other: batching their matrix products is no faster on a CPU.
    """

    def own(members: Any, shared: Any) -> Any:
        return jax.lax.map(lambda member: function(member, shared), members)

    if mesh is None or mesh.size == 1:
        return own(members, shared)
    split = PartitionSpec(_AXIS)
    return jax.shard_map(
        own, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split, check_vma=False
    )(members, shared)


def distribute(tree: Any, mesh: Mesh) -> Any:
    """Shard the leading axis of each array over the devices of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_AXIS)))


def own_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of a batch that belong to the devices of this process."""
    share = batch_size // mesh.size
    here = [
        place
        for place, device in enumerate(mesh.devices.flat)
        if device.process_index == jax.process_index()
    ]
    return slice(here[0] * share, (here[-1] + 1) * share)


def from_own_rows(tree: Any, mesh: Mesh, *, divided: bool) -> Any:
    """Put (steps, batch, …) arrays on the devices: this process's rows or, undivided, all."""
    sharding = block_sharding(mesh, divided=divided)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), tree)


def block_sharding(mesh: Mesh, *, divided: bool) -> NamedSharding:
    """The sharding of the result of :func:`from_own_rows`."""
    return NamedSharding(mesh, _ROWS if divided else PartitionSpec())


def own_share(indices: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Take this device's part of each batch: (batches, batch_size / devices)."""
    if mesh is None or mesh.size == 1:
        return indices
    batches, batch_size = indices.shape
    shares = indices.reshape(batches, mesh.size, batch_size // mesh.size)
    return shares[:, jax.lax.axis_index(_AXIS)]


def own_row_numbers(rows: int, mesh: Mesh | None) -> jax.Array:
    """Which rows of the batch this device's share of ``rows`` are."""
    numbers = jax.numpy.arange(rows)
    if mesh is None or mesh.size == 1:
        return numbers
    return jax.lax.axis_index(_AXIS) * rows + numbers


def sum_over_devices(tree: Any, mesh: Mesh | None) -> Any:
    """Sum the arrays of a pytree, all of one dtype, over the devices, in one all-reduce."""
    if mesh is None or mesh.size == 1:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, _AXIS))


def to_host(tree: Any) -> Any:
    """Fetch a pytree as numpy arrays, in every process, even if other processes hold its parts."""

    def whole(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return leaf

    return jax.device_get(jax.tree.map(whole, tree))


def in_any_process(condition: bool) -> bool:
    """Whether a condition holds in any process; all of them must ask, and get the same answer."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.array(condition))))
