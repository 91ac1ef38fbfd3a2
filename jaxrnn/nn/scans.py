"""Scans: recurrences over projected inputs, and the hand-written gradient of the Elman cell."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.custom_derivatives import SymbolicZero

# f' as a function of the state h = f(z), so that only states are kept for the backward pass.
DERIVATIVES: dict[Any, Callable[[jax.Array], jax.Array]] = {
    jnp.tanh: lambda h: 1 - h * h,
    nn.relu: lambda h: (h > 0).astype(h.dtype),
    nn.sigmoid: lambda h: h * (1 - h),
}


def scan(
    activation: Callable[[jax.Array], jax.Array],
    residual: bool,
    unroll: int,
    projected: jax.Array,
    carry: jax.Array,
    kernel: jax.Array,
    valid: jax.Array | None = None,
    dropout: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Scan (time, *batch, hidden) input projections; returns the last state and all states.

    States of time steps that are not ``valid`` (time, *batch) are 0; by default all are valid.
    ``dropout`` (*batch, hidden) are factors of the state where the kernel is applied to it.
    """

    def step(state: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        inputs, valid = inputs
        total = inputs + (state if dropout is None else state * dropout) @ kernel
        state = zero_unless(valid, activation(total + state if residual else total))
        return state, state

    return jax.lax.scan(step, carry, (projected, valid), unroll=steps_at_once(unroll, projected))


def scan_gru(
    gate: Callable[[jax.Array], jax.Array],
    activation: Callable[[jax.Array], jax.Array],
    unroll: int,
    projected: jax.Array,
    carry: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    valid: jax.Array | None = None,
    dropout: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """As :func:`scan`, of (time, *batch, 3 hidden) input projections."""

    def step(state: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        inputs, valid = inputs
        reset, update, new = jnp.split(inputs, 3, axis=-1)
        read = state if dropout is None else state * dropout
        of_reset, of_update, of_new = jnp.split(read @ kernel, 3, axis=-1)
        r, z = gate(reset + of_reset), gate(update + of_update)
        candidate = activation(new + r * (of_new + jnp.expand_dims(bias, range(of_new.ndim - 1))))
        state = zero_unless(valid, (1 - z) * candidate + z * state)
        return state, state

    return jax.lax.scan(step, carry, (projected, valid), unroll=steps_at_once(unroll, projected))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def differentiable_scan(
    activation: Callable[[jax.Array], jax.Array],
    residual: bool,
    unroll: int,
    projected: jax.Array,
    carry: jax.Array,
    kernel: jax.Array,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """As :func:`scan`, with a gradient written by hand."""
    return scan(activation, residual, unroll, projected, carry, kernel, valid)


def _scan_forward(activation, residual, unroll, projected, carry, kernel, valid):  # type: ignore
    projected, carry, kernel = projected.value, carry.value, kernel.value
    valid = None if valid is None else valid.value
    last, states = scan(activation, residual, unroll, projected, carry, kernel, valid)
    return (last, states), (carry, states, kernel, valid)


def _scan_backward(activation, residual, unroll, kept, gradients):  # type: ignore
    carry, states, kernel, valid = kept
    of_last, of_states = gradients
    derivative, transposed = DERIVATIVES[activation], kernel.T
    # If only the last state is read, no array of zeros is created for the others.
    of_states = None if isinstance(of_states, SymbolicZero) else of_states
    if isinstance(of_last, SymbolicZero):
        of_last = jnp.zeros_like(carry)

    def step(of_state, inputs):  # type: ignore
        state, from_outside, valid = inputs
        if from_outside is not None:
            of_state = of_state + from_outside
        delta = zero_unless(valid, of_state * derivative(state))
        of_state = delta @ transposed
        return of_state + delta if residual else of_state, delta

    inputs = states, of_states, valid
    of_carry, deltas = jax.lax.scan(step, of_last, inputs, reverse=True, unroll=unroll)
    hidden = kernel.shape[0]
    of_kernel = states[:-1].reshape(-1, hidden).T @ deltas[1:].reshape(-1, hidden) + carry.reshape(
        -1, hidden
    ).T @ deltas[0].reshape(-1, hidden)
    return deltas, of_carry, of_kernel, None


differentiable_scan.defvjp(_scan_forward, _scan_backward, symbolic_zeros=True)


@jax.custom_vjp
def linear_scan(decay: jax.Array, inputs: jax.Array) -> jax.Array:
    r"""Scan :math:`h_t = a_t \odot h_{t-1} + b_t` from 0; every array is (time, …).

    On accelerators it runs in parallel over time, by ``jax.lax.associative_scan``. On a CPU, where
    that is slower, the time steps follow each other. Both give the same result to float rounding.

    Source: G. E. Blelloch, "Prefix sums and their applications" (1990).
    """
    if steps_at_once(4, inputs) == 1:  # a prefix sum needs to know the number of time steps
        return linear_scan_in_order(decay, inputs)
    scans = {"cpu": linear_scan_in_order, "default": linear_scan_in_parallel}
    states: jax.Array = jax.lax.platform_dependent(decay, inputs, **scans)
    return states


def scan_min_gru(
    gate: Callable[[jax.Array], jax.Array], projected: jax.Array, carry: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As :func:`scan`, of (time, *batch, 2 hidden) input projections: the gate, the candidate."""
    update, candidate = jnp.split(projected, 2, axis=-1)
    update = gate(update)
    inputs = update * candidate
    states = linear_scan(1 - update, inputs.at[0].add((1 - update[0]) * carry))
    return states[-1], states


def linear_scan_in_order(decay: jax.Array, inputs: jax.Array) -> jax.Array:
    """The recurrence, one time step after the other."""

    def step(state: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        decay, inputs = step
        state = decay * state + inputs
        return state, state

    unroll = steps_at_once(4, inputs)
    return jax.lax.scan(step, jnp.zeros_like(inputs[0]), (decay, inputs), unroll=unroll)[1]


def linear_scan_in_parallel(decay: jax.Array, inputs: jax.Array) -> jax.Array:
    """The recurrence as a prefix sum of the maps from one state to the next."""

    def compose(first: Any, then: Any) -> Any:
        return then[0] * first[0], then[0] * first[1] + then[1]

    return jax.lax.associative_scan(compose, (decay, inputs))[1]


def _linear_forward(decay: jax.Array, inputs: jax.Array) -> Any:
    states = linear_scan(decay, inputs)
    return states, (decay, states)


def _linear_backward(kept: Any, of_states: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The gradient is the same recurrence, backwards in time.
    decay, states = kept
    later = jnp.concatenate([decay[1:], jnp.zeros_like(decay[:1])])
    deltas = jnp.flip(linear_scan(jnp.flip(later, 0), jnp.flip(of_states, 0)), 0)
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    return deltas * before, deltas


linear_scan.defvjp(_linear_forward, _linear_backward)


def steps_at_once(unroll: int, inputs: jax.Array) -> int:
    """Time steps per loop iteration: 1 if how many there are is only known later, as in export."""
    return unroll if isinstance(inputs.shape[0], int) else 1


def zero_unless(valid: jax.Array | None, states: jax.Array) -> jax.Array:
    """States (*batch, features) where ``valid`` (*batch), elsewhere 0."""
    return states if valid is None else jnp.where(like(valid, states), states, 0)


def like(valid: jax.Array, states: jax.Array) -> jax.Array:
    """``valid`` with as many axes as ``states``, the further ones of size 1."""
    return jnp.expand_dims(valid, range(valid.ndim, states.ndim))
