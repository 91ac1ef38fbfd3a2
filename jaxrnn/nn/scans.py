"""Recurrences over projected inputs as pure functions, and derivatives written by hand."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

Activation = Callable[[Array], Array]
State = Float[Array, "*batch hidden"]
States = Float[Array, "time *batch hidden"]
Kernel = Float[Array, "hidden hidden"]
Valid = Bool[Array, "time *batch"]

# f' as a function of the state h = f(z), so that only states are kept for the backward pass.
DERIVATIVES: dict[Activation, Activation] = {
    jnp.tanh: lambda h: 1 - h * h,
    nn.relu: lambda h: (h > 0).astype(h.dtype),
    nn.sigmoid: lambda h: h * (1 - h),
}


def scan(
    activation: Activation,
    residual: bool,
    unroll: int,
    projected: States,
    carry: State,
    kernel: Kernel,
    valid: Valid | None = None,
    dropout: State | None = None,
) -> tuple[State, States]:
    """Scan the cell of Elman networks over input projections; return the last and all states.

    States of time steps that are not ``valid`` are 0; by default all are valid. ``dropout`` holds
    factors of the state that the kernel is applied to.
    """

    def next_state(state: State, inputs: State) -> State:
        total = inputs + (state if dropout is None else state * dropout) @ kernel
        return activation(total + state if residual else total)

    return _scan(next_state, unroll, projected, carry, valid)


def scan_gru(
    gate: Activation,
    activation: Activation,
    unroll: int,
    projected: Float[Array, "time *batch joined"],
    carry: State,
    kernel: Float[Array, "hidden joined"],
    bias: Float[Array, "hidden"],
    valid: Valid | None = None,
    dropout: State | None = None,
) -> tuple[State, States]:
    """Scan a GRU, as :func:`scan`; ``bias`` is added to the candidate's recurrent projection."""

    def next_state(state: State, inputs: Float[Array, "*batch joined"]) -> State:
        reset, update, new = jnp.split(inputs, 3, axis=-1)
        read = state if dropout is None else state * dropout
        of_reset, of_update, of_new = jnp.split(read @ kernel, 3, axis=-1)
        r, z = gate(reset + of_reset), gate(update + of_update)
        candidate = activation(new + r * (of_new + jnp.expand_dims(bias, range(of_new.ndim - 1))))
        return (1 - z) * candidate + z * state

    return _scan(next_state, unroll, projected, carry, valid)


def scan_min_gru(
    gate: Activation, projected: Float[Array, "time *batch joined"], carry: State
) -> tuple[State, States]:
    """Scan a :class:`jaxrnn.nn.MinGRUCell`, as :func:`scan`."""
    update, candidate = jnp.split(projected, 2, axis=-1)
    update = gate(update)
    inputs = update * candidate
    states = linear_scan(1 - update, inputs.at[0].add((1 - update[0]) * carry))
    return states[-1], states


def _scan(
    next_state: Callable[[State, chex.ArrayTree], State],
    unroll: int,
    inputs: chex.ArrayTree,
    carry: State,
    valid: Valid | None = None,
) -> tuple[State, States]:
    def step(state: State, step_inputs: chex.ArrayTree) -> tuple[State, State]:
        inputs, valid = step_inputs
        state = where_valid(valid, next_state(state, inputs))
        return state, state

    return jax.lax.scan(step, carry, (inputs, valid), unroll=steps_at_once(unroll, inputs))


# As scan, with derivatives written by hand, for the activations in DERIVATIVES and without dropout.
differentiable_scan = jax.custom_jvp(scan, nondiff_argnums=(0, 1, 2))


@differentiable_scan.defjvp
def _scan_jvp(
    activation: Activation,
    residual: bool,
    unroll: int,
    primals: tuple[chex.ArrayTree, ...],
    tangents: tuple[chex.ArrayTree, ...],
) -> tuple[tuple[State, States], tuple[State, States]]:
    """Linearize the scan; JAX derives the gradient by transposing this, last time step first."""
    _, carry, kernel, valid, _ = primals
    of_projected, of_carry, of_kernel, *_ = tangents
    last, states = differentiable_scan(activation, residual, unroll, *primals)
    slopes, transposed = DERIVATIVES[activation](states), kernel.T

    # One product for all time steps, so that the kernel's gradient is one too, after the loop.
    rows = states[:-1].reshape(-1, kernel.shape[0]) @ of_kernel
    later = rows.reshape(states[1:].shape)
    of_totals = of_projected + jnp.concatenate([(carry @ of_kernel)[None], later])

    def step(of_state: State, inputs: chex.ArrayTree) -> tuple[State, State]:
        of_total, slope, valid = inputs
        # The kernel is transposed twice so that the gradient's loop multiplies by it as it lies.
        of_total += jnp.einsum("...i,ji->...j", of_state, transposed)
        of_total = of_total + of_state if residual else of_total
        of_state = where_valid(valid, slope * of_total)
        return of_state, of_state

    steps = of_totals, slopes, valid
    return (last, states), jax.lax.scan(step, of_carry, steps, unroll=steps_at_once(unroll, steps))


@jax.custom_vjp
def linear_scan(decay: States, inputs: States) -> States:
    r"""Scan :math:`h_t = a_t \odot h_{t-1} + b_t` from 0, given :math:`a` and :math:`b`.

    On accelerators it runs in parallel over time, by ``jax.lax.associative_scan``; on a CPU, where
    that is slower, sequentially. Both give the same result to float rounding.

    References:
      G. E. Blelloch, "Prefix sums and their applications" (1990).
    """
    if steps_at_once(4, inputs) == 1:  # a prefix sum needs to know the number of time steps
        return linear_scan_in_order(decay, inputs)
    scans = {"cpu": linear_scan_in_order, "default": linear_scan_in_parallel}
    return jax.lax.platform_dependent(decay, inputs, **scans)


def linear_scan_in_order(decay: States, inputs: States) -> States:
    """Compute :func:`linear_scan` one time step at a time."""
    zeros = jnp.zeros_like(inputs[0])
    return _scan(lambda state, step: step[0] * state + step[1], 4, (decay, inputs), zeros)[1]


def linear_scan_in_parallel(decay: States, inputs: States) -> States:
    """Compute :func:`linear_scan` as a prefix sum of the maps from one state to the next."""

    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return then[0] * first[0], then[0] * first[1] + then[1]

    return jax.lax.associative_scan(compose, (decay, inputs))[1]


def _linear_forward(decay: States, inputs: States) -> tuple[States, tuple[States, States]]:
    states = linear_scan(decay, inputs)
    return states, (decay, states)


def _linear_backward(kept: tuple[States, States], of_states: States) -> tuple[States, States]:
    # The gradient is the same recurrence, backwards in time.
    decay, states = kept
    later = jnp.concatenate([decay[1:], jnp.zeros_like(decay[:1])])
    deltas = jnp.flip(linear_scan(jnp.flip(later, 0), jnp.flip(of_states, 0)), 0)
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    return deltas * before, deltas


linear_scan.defvjp(_linear_forward, _linear_backward)


def steps_at_once(unroll: int, inputs: chex.ArrayTree) -> int:
    """Return ``unroll``, or 1 if the number of time steps is symbolic, as it is in export."""
    return unroll if isinstance(jax.tree.leaves(inputs)[0].shape[0], int) else 1


def where_valid(
    valid: Bool[Array, "*batch"] | None, states: Array, otherwise: Array | float = 0
) -> Array:
    """Replace the states (\\*batch, …) that are not valid by ``otherwise``; None: all are valid."""
    if valid is None:
        return states
    return jnp.where(jnp.expand_dims(valid, range(valid.ndim, states.ndim)), states, otherwise)
