"""One optimizer step, with gradient accumulation and truncated backpropagation through time."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxrnn.data.splits import Batch
from jaxrnn.training.forward import compute_outputs, draws, keys_of, measure_part
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import own_row_numbers, sum_over_devices
from jaxrnn.training.state import TrainState

_DROPOUT = 0x64726F70  # "drop"; unlike what data order and augmentation fold in


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a step is computed.

    Attributes:
      accumulate: number of parts of a batch whose gradients are computed one after the other and
        summed. The result is the same to float rounding, and only the activations of one part are
        in memory.
      truncate: number of time steps to backpropagate through. Longer sequences are trained on in
        chunks of this length, with an update after each; the state of the network is carried over.

    Raises:
      ValueError: a number is below 1.

    Source: R. J. Williams and J. Peng, "An efficient gradient-based algorithm for on-line training
    of recurrent network trajectories" (1990), for the chunks.
    """

    accumulate: int = 1
    truncate: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")


def step(
    state: TrainState,
    batch: Batch,
    key: jax.Array | None,
    mesh: Mesh | None,
    options: StepOptions = StepOptions(),
) -> tuple[TrainState, Metrics]:
    """One step, or one for each chunk of long sequences, on this device's share of a batch."""
    update = partial(_update, key=key, mesh=mesh, parts=options.accumulate)
    time, chunk = jnp.shape(batch["inputs"])[1], options.truncate
    if chunk is None or time <= chunk:
        state, metrics, _ = update(state, batch, None)
        return state, metrics
    check_truncation(batch)

    def advance(carried: Any, start: jax.Array) -> Any:
        state, carry = carried
        state, metrics, carry = update(state, _cut(batch, start, chunk), carry)
        return (state, carry), metrics

    carried = state, _first_carry(state, batch)
    starts = jnp.arange(0, time - time % chunk, chunk)
    (state, carry), metrics = jax.lax.scan(advance, carried, starts)
    metrics = jax.tree.map(lambda sums: sums.sum(0), metrics)
    if time % chunk:
        last = _cut(batch, time - time % chunk, time % chunk)
        state, of_last, _ = update(state, last, carry)
        metrics = metrics + of_last
    return state, metrics


def check_truncation(batch: Batch) -> None:
    """Raise ``ValueError`` unless there is a label or target for each time step."""
    if jnp.ndim(batch.get("labels", 0)) != 2 and jnp.ndim(batch.get("targets", 0)) != 3:
        raise ValueError("--truncate needs a label or target for each time step")


def _cut(batch: Batch, start: Any, size: int) -> Batch:
    """``size`` time steps of a batch, from ``start`` on."""
    cut = {
        name: jax.lax.dynamic_slice_in_dim(array, start, size, axis=1)
        for name, array in batch.items()
        if name in ("inputs", "labels", "targets")
    }
    if "lengths" in batch:
        cut["lengths"] = jnp.clip(batch["lengths"] - start, 0, size)
    return cut


def _first_carry(state: TrainState, batch: Batch) -> Any:
    """The carry of zeros with which every network of jaxrnn begins."""

    def outputs(state: TrainState, batch: Batch) -> Any:
        return compute_outputs(state, batch, carry=())

    carry = jax.eval_shape(outputs, state, _cut(batch, 0, 1))[1]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)


def _update(
    state: TrainState, batch: Batch, carry: Any, *, key: Any, mesh: Mesh | None, parts: int
) -> tuple[TrainState, Metrics, Any]:
    r"""One update.

    The gradient is that of :math:`\sum_i w_i \ell_i / \sum_i w_i` over the whole batch: each share
    is divided by the total weight, and the gradients are summed.
    """
    weights = state.task.weights(batch)
    total: Any = None
    if weights is not None:
        weight = sum_over_devices(weights.sum(dtype=jnp.float32), mesh)
        total = jnp.where(weight > 0, weight, 1)
    rows, keys = len(batch["inputs"]), None
    if key is not None and draws(state):
        key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
        keys = keys_of(key, own_row_numbers(rows, mesh))

    def loss_fn(params: Any, part: Any) -> tuple[jax.Array, Any]:
        batch, keys, carry = part
        now = state.replace(params=params)
        metrics, carry = measure_part(now, batch, train=True, keys=keys, carry=carry)
        divisor = total
        if weights is None:  # each element counts once, and the other parts have as many
            devices = 1 if mesh is None else mesh.size
            divisor = devices * int(metrics.weight) * rows // len(batch["inputs"])
        return metrics.sums["loss"] / divisor, (metrics, carry)

    gradient = partial(jax.grad(loss_fn, has_aux=True), state.params)
    grads, (metrics, carry) = _in_parts(gradient, (batch, keys, carry), rows, parts)
    return state.apply_gradients(grads=sum_over_devices(grads, mesh)), metrics, carry


def _in_parts(gradient: Any, whole: Any, rows: int, parts: int) -> Any:
    """The sum of the gradients and metrics of parts of a batch, and the carries concatenated."""
    size = -(-rows // parts)
    if size == rows:
        return gradient(whole)
    many = rows // size * size

    def add(sums: Any, part: Any) -> Any:
        grads, (metrics, carry) = gradient(part)
        return jax.tree.map(jnp.add, sums, (grads, metrics)), carry

    first = jax.tree.map(lambda array: array[:size], whole)
    shapes = jax.eval_shape(gradient, first)
    zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), (shapes[0], shapes[1][0]))
    stacked = jax.tree.map(lambda array: array[:many].reshape(-1, size, *array.shape[1:]), whole)
    sums, carry = jax.lax.scan(add, zeros, stacked)
    carry = jax.tree.map(lambda array: array.reshape(many, *array.shape[2:]), carry)
    if many < rows:
        sums, rest = add(sums, jax.tree.map(lambda array: array[many:], whole))
        carry = jax.tree.map(lambda *both: jnp.concatenate(both), carry, rest)
    return sums[0], (sums[1], carry)
