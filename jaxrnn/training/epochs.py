"""Several steps, or a whole epoch, as one XLA program."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import chex
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from jaxrnn.data.batches import as_key, check_batch_size, epoch_indices, prepare
from jaxrnn.data.splits import Batch, Split, take
from jaxrnn.training.blocks import blocks_of_split
from jaxrnn.training.forward import keys_of
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import over_devices, own_share, sum_over_devices
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import StepOptions, step

Augment: TypeAlias = Callable[[Key[Array, ""], Float[Array, "time features"]], chex.Array]

_WARP = 0x77617270  # "warp"


@partial(jax.jit, static_argnames=("augment", "mesh", "sharded", "options"))
def train_block(
    state: TrainState,
    examples: Split | Batch,
    rows: Int[chex.Array, "steps batch"],
    key: Key[Array, ""],
    mesh: Mesh | None = None,
    sharded: bool = False,
    *,
    augment: Augment | None = None,
    options: StepOptions = StepOptions(),  # noqa: B008
) -> tuple[TrainState, Metrics]:
    """Take several steps as one XLA program.

    Pure. Consecutive blocks give the same bits as one block of all their steps.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      examples: arrays of n examples, already on the devices. A batch may have ``places`` (n,), the
        positions in the source that they were read from; by default 0 … n - 1.
      rows: indices of the examples of each step.
      key: PRNG key of this epoch, for augmentation and dropout.
      mesh: devices that share each batch. One device by default.
      sharded: whether ``examples`` are divided among the devices instead of replicated; ``rows``
        are then (steps, share) indices into the part of each device.
      augment, options: see :func:`train_epoch`.

    Returns:
      The state after these steps, and the :class:`jaxrnn.Metrics` of each step, (steps,) arrays.
    """

    def block(
        state: TrainState,
        examples: Split | Batch,
        rows: Int[chex.Array, "steps batch"],
        key: Key[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        read = examples if isinstance(examples, dict) else {}

        def body(state: TrainState, row: Int[Array, " batch"]) -> tuple[TrainState, Metrics]:
            batch = prepare(take(examples, row))
            if augment:
                places = read["places"][row] if "places" in read else row
                batch["inputs"] = augmented(augment, batch["inputs"], places, key)
            return step(state, batch, key, mesh, options)

        share = rows if sharded else own_share(rows, mesh)
        state, metrics = jax.lax.scan(body, state, share)
        return state, jax.tree.map(lambda sums: sum_over_devices(sums, mesh), metrics)

    return over_devices(block, mesh, sharded=sharded)(state, examples, rows, key)


@partial(jax.jit, static_argnames=("batch_size", "drop_remainder", "augment", "mesh", "options"))
def train_epoch(
    state: TrainState,
    split: Split,
    key: Key[Array, ""],
    *,
    batch_size: int,
    drop_remainder: bool = False,
    augment: Augment | None = None,
    mesh: Mesh | None = None,
    options: StepOptions = StepOptions(),  # noqa: B008
) -> tuple[TrainState, Metrics]:
    """Train for one pass over a split in random order, as one XLA program.

    Pure, and to float rounding the same as :func:`jaxrnn.train_step` over :func:`jaxrnn.batches` of
    the same key, on any number of devices.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      split: put it on the device first (``jax.device_put``), or every call copies it there.
      key: PRNG key of this epoch, for the order, augmentation and, as in ``train_step``, dropout.
      batch_size: examples per step.
      drop_remainder: leave out the examples that don't fill a batch, instead of taking a last step
        on a smaller one.
      augment: function of a key and the inputs of one example, (time, features) floats, that
        returns what to train on instead, such as :meth:`jaxrnn.WarpConfig.build` gives.
      mesh: devices that share each batch, from :func:`jaxrnn.training.sharding.batch_mesh`; state
        and split must be replicated over them. One device by default.
      options: gradient accumulation and truncated backpropagation, see :class:`StepOptions`.

    Returns:
      The state after the epoch, and the :class:`jaxrnn.Metrics` of all steps, each measured before
      its update.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples.
    """
    check_batch_size(batch_size, split)
    key = as_key(key)
    whole, rest = epoch_indices(
        key, len(split), batch_size=batch_size, drop_remainder=drop_remainder
    )
    total = Metrics.zero()
    for examples, rows, *shared in blocks_of_split(split, [whole], rest, mesh):
        state, metrics = train_block(
            state, examples, rows, key, *shared, augment=augment, options=options
        )
        total += jax.tree.map(lambda sums: sums.sum(0), metrics)
    return state, total


def augmented(
    augment: Augment,
    inputs: Float[Array, "batch time features"],
    places: Int[Array, " batch"],
    key: Key[Array, ""],
) -> Float[Array, "batch time features"]:
    """Augment each example with a key derived from the epoch's and its place in the source."""
    # Unlike any key that jax.random.permutation derives from the epoch's key for the order: it
    # splits the key, which is to fold in 0, 1, …
    keys = keys_of(jax.random.fold_in(key, _WARP), places)
    return jax.vmap(augment)(keys, inputs).astype(inputs.dtype)
