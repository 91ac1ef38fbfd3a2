"""Linear elementwise recurrences, which run in parallel over time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn.nn.scans import Activation, project, scan
from jaxrnn.nn.sequences import (
    Lengths,
    State,
    States,
    Steps,
    last_valid,
    mask_steps,
    steps_at_once,
)


def linear_scan(
    decay: States, inputs: States, carry: State | None = None, *, lengths: Lengths | None = None
) -> tuple[State, States]:
    r"""Compute the states of a linear recurrence.

    .. math:: h_t = a_t \odot h_{t-1} + b_t

    On accelerators it runs in parallel over time, by ``jax.lax.associative_scan``; on a CPU, where
    that is slower, sequentially. Both give the same result to float rounding.

    Args:
      decay: :math:`a`.
      inputs: :math:`b`.
      carry: the state before the first time step; by default 0.
      lengths: see :func:`jaxrnn.nn.elman_scan`.

    Returns:
      The state after the last valid time step, and all states.

    References:
      G. E. Blelloch, "Prefix sums and their applications" (1990).

    >>> last, states = linear_scan(jnp.full((3, 1), 0.5), jnp.ones((3, 1)))
    >>> print(states.ravel())
    [1.   1.5  1.75]
    """
    decay, _ = mask_steps(decay, lengths)
    inputs, _ = mask_steps(inputs, lengths)
    carry = jnp.zeros_like(inputs[0]) if carry is None else carry
    states = _scan_from_zero(decay, jnp.asarray(inputs).at[0].add(decay[0] * carry))
    return last_valid(states[-1], states, carry, lengths), states


def min_gru_scan(
    inputs: Steps,
    carry: State,
    kernel: Float[Array, "features joined"],
    bias: Float[Array, "joined"],
    *,
    lengths: Lengths | None = None,
    gate: Activation,
) -> tuple[State, States]:
    """Compute the states of a :class:`jaxrnn.nn.MinGRUCell`, as :func:`jaxrnn.nn.elman_scan`."""
    inputs, _ = mask_steps(inputs, lengths)
    update, candidate = jnp.split(project(inputs, kernel, bias), 2, axis=-1)
    update = gate(update)
    last, states = linear_scan(1 - update, update * candidate, carry)
    return last_valid(last, states, carry, lengths), states


@jax.custom_vjp
def _scan_from_zero(decay: States, inputs: States) -> States:
    if steps_at_once(4, inputs) == 1:  # a prefix sum requires a static number of time steps
        return scan_in_order(decay, inputs)
    scans = {"cpu": scan_in_order, "default": scan_in_parallel}
    return jax.lax.platform_dependent(decay, inputs, **scans)


def scan_in_order(decay: States, inputs: States) -> States:
    """Compute :func:`linear_scan` from 0, one time step at a time."""
    zeros = jnp.zeros_like(inputs[0])
    return scan(lambda state, step: step[0] * state + step[1], 4, (decay, inputs), zeros)[1]


def scan_in_parallel(decay: States, inputs: States) -> States:
    """Compute :func:`linear_scan` from 0, as a prefix sum of maps from one state to the next."""

    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return then[0] * first[0], then[0] * first[1] + then[1]

    return jax.lax.associative_scan(compose, (decay, inputs))[1]


def _linear_forward(decay: States, inputs: States) -> tuple[States, tuple[States, States]]:
    states = _scan_from_zero(decay, inputs)
    return states, (decay, states)


def _linear_backward(kept: tuple[States, States], of_states: States) -> tuple[States, States]:
    # The gradient is the same recurrence, backwards in time.
    decay, states = kept
    later = jnp.concatenate([decay[1:], jnp.zeros_like(decay[:1])])
    deltas = jnp.flip(_scan_from_zero(jnp.flip(later, 0), jnp.flip(of_states, 0)), 0)
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    return deltas * before, deltas


_scan_from_zero.defvjp(_linear_forward, _linear_backward)
