"""One batch over several devices: every device takes a share, one all-reduce a step joins them.

Data and parameters are on every device (MNIST as uint8 is 47 MB), so that a device takes its share
of a shuffled batch from its own memory and nothing but gradients moves between them.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_AXIS = "batch"


def use_cpu_cores(count: int | None = None) -> None:
    """Make XLA see one CPU device per core, or ``count`` of them; it sees a single one otherwise.

    A step of small matrix products keeps two cores busier as two devices, each with its own share
    of the batch, than as one device whose products are split. Call it before anything touches a
    device: afterwards it does nothing. Other platforms are not affected.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # the devices exist already, and stay as they are
        jax.config.update("jax_num_cpu_devices", count or cores or 1)


def batch_mesh(batch_size: int, devices: int | None = None) -> Mesh:
    """A mesh of as many devices as there are, at most ``devices``, whose number divides the batch.

    Raises:
      ValueError: ``devices`` below 1, or more than there are.
    """
    available = jax.devices()
    wanted = len(available) if devices is None else devices
    if not 1 <= wanted <= len(available):
        raise ValueError(
            f"devices must be between 1 and the {len(available)} there are; got {wanted}"
        )
    count = max(n for n in range(1, wanted + 1) if batch_size % n == 0)
    return jax.make_mesh((count,), (_AXIS,), axis_types=(AxisType.Auto,), devices=available[:count])


def member_mesh(members: int, devices: int | None = None) -> tuple[Mesh, int]:
    """A mesh for N networks, and how many there must be for each device to have as many.

    Raises:
      ValueError: as :func:`batch_mesh`.
    """
    available = batch_mesh(0, devices).size  # any number divides 0
    share = -(-members // available)
    used = -(-members // share)
    return batch_mesh(share * used, used), share * used


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a copy of each array on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def over_devices(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """Run ``function`` on every device of the mesh, with the same arguments and the same result.

    Inside, :func:`own_share` and :func:`sum_over_devices` tell the devices apart and join them.
    """
    if mesh is None or mesh.size == 1:
        return function
    everywhere = PartitionSpec()
    # check_vma would have every scan inside, Flax's included, say which carries differ by device.
    return jax.shard_map(
        function, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )


def for_each_member(
    function: Callable[..., Any], members: Any, shared: Any, mesh: Mesh | None
) -> Any:
    """``function(member, shared)`` for each of N members, which the devices divide among them.

    ``members`` is a pytree of arrays with a leading axis of N, a multiple of the devices; so is the
    result. Nothing moves between devices. One after the other on its device, each member's matrix
    products are those that it has alone: batched into one product they are no faster on a CPU.
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
    """Divide the leading axis of each array among the devices of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_AXIS)))


def own_share(indices: jax.Array, mesh: Mesh | None) -> jax.Array:
    """This device's part of each batch: (batches, batch_size) → (batches, batch_size / devices)."""
    if mesh is None or mesh.size == 1:
        return indices
    batches, batch_size = indices.shape
    shares = indices.reshape(batches, mesh.size, batch_size // mesh.size)
    return shares[:, jax.lax.axis_index(_AXIS)]


def sum_over_devices(tree: Any, mesh: Mesh | None) -> Any:
    """Sum the arrays of a pytree, all of one dtype, over the devices: one all-reduce for all."""
    if mesh is None or mesh.size == 1:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, _AXIS))
