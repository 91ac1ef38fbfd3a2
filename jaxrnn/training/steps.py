"""One optimizer step; gradient accumulation, truncated backpropagation and rematerialization."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from jaxrnn.data.batches import as_key, prepare
from jaxrnn.data.splits import Batch
from jaxrnn.training.forward import (
    Carry,
    Keys,
    cut,
    keys_of,
    measure_in_pieces,
    measure_prepared,
    start_carry,
)
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import own_row_numbers, sum_over_devices
from jaxrnn.training.state import TrainState
from jaxrnn.training.tasks import per_step

_Part: TypeAlias = tuple[Batch, Keys, Carry]
_Measured: TypeAlias = tuple[Metrics, Carry]

_DROPOUT = 0x64726F70  # "drop"; differs from what data order and augmentation fold in


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a step is computed; for the attributes, see :class:`jaxrnn.TrainerConfig`.

    With ``remat`` the gradient is exact, and memory is least near the square root of the sequence
    length; a label for the whole sequence requires an ``RNNModel`` with pooling ``last``. With
    ``truncate`` or ``remat``, the initial state is zero, even if the network defines another.

    Raises:
      ValueError: a number is below 1.

    References:
      R. J. Williams and J. Peng, "An efficient gradient-based algorithm for on-line training
      of recurrent network trajectories" (1990), for the chunks; T. Chen, B. Xu, C. Zhang and
      C. Guestrin, "Training deep nets with sublinear memory cost" (2016), for the pieces.
    """

    accumulate: int = 1
    truncate: int | None = None
    remat: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")


@jax.jit
def train_step(
    state: TrainState, batch: Batch, key: Key[Array, ""] | None = None
) -> tuple[TrainState, Metrics]:
    """Take one optimizer step on the mean loss of a batch.

    Pure: ``state`` is not modified and may be used again.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      batch: ``inputs`` (batch, time, features) uint8 or float, or (batch, time) tokens; the
        ``labels`` or ``targets`` of the task; and optionally ``lengths`` (batch,).
      key: PRNG key of dropout, required if there is any. It may be the same in every step, as
        ``state.step`` is folded in.

    Returns:
      The next state, and the :class:`jaxrnn.Metrics` of the batch under the parameters before the
      step. The loss is NaN if a label or a length is out of range.

    Raises:
      ValueError: the arrays of the batch, or the outputs of the model, don't fit each other.

    >>> import optax
    >>> from jaxrnn import RNNModel, create_train_state
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNModel(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> batch = {"inputs": jnp.zeros((3, 28, 28)), "labels": jnp.array([1, 2, 3])}
    >>> new_state, metrics = train_step(state, batch)
    >>> int(new_state.step), int(state.step), int(metrics.weight)
    (1, 0, 3)
    """
    return step(state, prepare(batch), None if key is None else as_key(key))


def step(
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""] | None,
    mesh: Mesh | None = None,
    options: StepOptions = StepOptions(),
) -> tuple[TrainState, Metrics]:
    """Take a step, or one for each chunk of long sequences, on this device's share of a batch.

    The batch is prepared and divided among the devices of the mesh; metrics are of one share.
    """
    update = partial(_update, key=key, mesh=mesh, options=options)
    time, chunk = batch["inputs"].shape[1], options.truncate
    check_pieces(state, batch, options)
    if chunk is None or time <= chunk:
        return update(state, batch, None)[:2]

    def advance(
        carried: tuple[TrainState, Carry], start: Int[Array, ""] | int, size: int = chunk
    ) -> tuple[tuple[TrainState, Carry], Metrics]:
        state, metrics, carry = update(carried[0], cut(batch, start, size), carried[1])
        return (state, carry), metrics

    carried, rest = (state, start_carry(state, batch)), time % chunk
    carried, metrics = jax.lax.scan(advance, carried, jnp.arange(0, time - rest, chunk))
    total = jax.tree.map(lambda sums: sums.sum(0), metrics)
    if rest:
        carried, metrics = advance(carried, time - rest, rest)
        total += metrics
    return carried[0], total


def check_pieces(state: TrainState, batch: Batch, options: StepOptions) -> None:
    """Raise ``ValueError`` if ``truncate`` or ``remat`` can't split the sequences of a batch."""
    time = batch["inputs"].shape[1]
    truncated, pieces = ((size or time) < time for size in (options.truncate, options.remat))
    carried = "carry" in state.takes and not getattr(state.model, "bidirectional", False)
    if (truncated or pieces) and not carried:
        raise ValueError("--truncate and --remat need a unidirectional model with a carry")
    if per_step(batch):
        return
    if truncated:
        raise ValueError("--truncate needs a label or target for each time step")
    pooling = getattr(state.model, "pooling", None)
    if pieces and ("lengths" in batch or pooling != "last"):
        lengths = " and lengths" * ("lengths" in batch)
        raise ValueError(
            "without a label or target for each time step, --remat needs --pooling last and "
            f"sequences of one length; got --pooling {pooling}{lengths}"
        )


def _update(
    state: TrainState,
    batch: Batch,
    carry: Carry,
    *,
    key: Key[Array, ""] | None,
    mesh: Mesh | None,
    options: StepOptions,
) -> tuple[TrainState, Metrics, Carry]:
    r"""Update the parameters once.

    The gradient is that of :math:`\sum_i w_i \ell_i / \sum_i w_i` over the whole batch: each share
    is divided by the total weight, and the gradients are summed.
    """
    weights, total = state.task.weights(batch), None
    if weights is not None:
        weight = sum_over_devices(weights.sum(dtype=jnp.float32), mesh)
        total = jnp.where(weight > 0, weight, 1)
    rows, keys = len(batch["inputs"]), None
    if key is not None:
        key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
        keys = keys_of(key, own_row_numbers(rows, mesh))

    def loss_fn(params: chex.ArrayTree, part: _Part) -> tuple[Array, _Measured]:
        batch, keys, carry = part
        measure = measure_prepared
        if options.remat is not None and options.remat < batch["inputs"].shape[1]:
            measure = partial(measure_in_pieces, size=options.remat)
        metrics, carry = measure(
            state.replace(params=params), batch, train=True, keys=keys, carry=carry
        )
        count: Any = total
        if count is None:  # the shapes give the number of elements, over all parts and devices
            devices = 1 if mesh is None else mesh.size
            count = devices * int(metrics.weight) * rows // len(batch["inputs"])
        return metrics.sums["loss"] / count, (metrics, carry)

    gradient = partial(jax.grad(loss_fn, has_aux=True), state.params)
    grads, (metrics, carry) = _in_parts(gradient, (batch, keys, carry), options.accumulate)
    dtype = optax.tree.dtype(grads, "highest")
    share = metrics.sums["loss"].astype(dtype), jnp.asarray(metrics.weight, dtype)
    grads, loss, weight = sum_over_devices((grads, *share), mesh)
    update = optax.with_extra_args_support(state.tx).update
    extra = {"value": loss / weight, "grad": grads}  # which some optimizers take
    updates, opt_state = update(grads, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, metrics, carry


def _in_parts(
    gradient: Callable[[_Part], tuple[chex.ArrayTree, _Measured]], whole: _Part, parts: int
) -> tuple[chex.ArrayTree, _Measured]:
    """Sum the gradients and metrics of the parts of a batch, and concatenate their carries."""
    rows = len(whole[0]["inputs"])
    size = -(-rows // parts)
    if size == rows:
        return gradient(whole)
    many = rows // size * size

    def add(sums: tuple[chex.ArrayTree, Metrics], part: _Part):  # type: ignore[no-untyped-def]
        grads, (metrics, carry) = gradient(part)
        return jax.tree.map(jnp.add, sums, (grads, metrics)), carry

    grads, (metrics, _) = jax.eval_shape(gradient, jax.tree.map(lambda leaf: leaf[:size], whole))
    zeros = jax.tree.map(jnp.zeros_like, (grads, metrics))
    stacked = jax.tree.map(lambda leaf: leaf[:many].reshape(-1, size, *leaf.shape[1:]), whole)
    sums, carry = jax.lax.scan(add, zeros, stacked)
    carry = jax.tree.map(lambda leaf: leaf.reshape(many, *leaf.shape[2:]), carry)
    if many < rows:
        sums, rest = add(sums, jax.tree.map(lambda leaf: leaf[many:], whole))
        carry = jax.tree.map(lambda *both: jnp.concatenate(both), carry, rest)
    return sums[0], (sums[1], carry)
