"""Linear elementwise recurrences, which run in parallel over time."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn.nn.scans import Activation, project
from jaxrnn.nn.sequences import (
    Lengths,
    State,
    States,
    Steps,
    last_valid,
    mask_steps,
    steps_at_once,
)

# The real and, of complex numbers, the imaginary part: on a CPU, XLA is faster with two real arrays
# than with a complex one.
Parts = tuple[Array, ...]


def linear_scan(
    decay: States | State,
    inputs: States,
    carry: State | None = None,
    *,
    lengths: Lengths | None = None,
) -> tuple[State, States]:
    r"""Compute the states of a linear recurrence of real or complex numbers.

    .. math:: h_t = a_t \odot h_{t-1} + b_t

    On accelerators it runs in parallel over time, by ``jax.lax.associative_scan``; on a CPU, where
    that is slower, sequentially. Both give the same result to float rounding. The derivative is
    written by hand, in forward and reverse mode: another such recurrence.

    Args:
      decay: :math:`a`, of the dtype of the inputs. With fewer axes than they have, it is the same
        at all time steps; its magnitude must then be at most 1 if there are ``lengths``.
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
    >>> linear_scan(jnp.array([0.5j]), jnp.ones((3, 1), jnp.complex64))[0]
    Array([0.75+0.5j], dtype=complex64)
    """
    inputs, _ = mask_steps(jnp.asarray(inputs), lengths)
    if jnp.ndim(decay) < inputs.ndim:
        decay = jnp.expand_dims(decay, range(inputs.ndim - 1 - jnp.ndim(decay)))
    else:
        decay, _ = mask_steps(decay, lengths)
    carry = jnp.zeros_like(inputs[0]) if carry is None else carry
    parts = _compute_states(*map(_parts, (decay, inputs, carry)))
    states = parts[0] if len(parts) == 1 else jax.lax.complex(*parts)
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


def _parts(numbers: Array) -> Parts:
    return (numbers.real, numbers.imag) if jnp.iscomplexobj(numbers) else (numbers,)


def _times(one: Parts, other: Parts) -> Parts:
    if len(one) == 1:
        return (one[0] * other[0],)
    (a, b), (c, d) = one, other
    return a * c - b * d, a * d + b * c


def _plus(one: Parts, other: Parts) -> Parts:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _is_constant(decay: Parts, inputs: Parts) -> bool:
    return decay[0].ndim < inputs[0].ndim


@jax.custom_jvp
def _compute_states(decay: Parts, inputs: Parts, carry: Parts) -> Parts:
    if steps_at_once(4, inputs) == 1:  # a prefix sum requires a static number of time steps
        return scan_in_order(decay, inputs, carry)
    scans = {"cpu": scan_in_order, "default": scan_in_parallel}
    return jax.lax.platform_dependent(decay, inputs, carry, **scans)


def scan_in_order(decay: Parts, inputs: Parts, carry: Parts) -> Parts:
    """Compute the states of :func:`linear_scan`, one time step at a time."""
    constant = _is_constant(decay, inputs)

    def step(state: Parts, now: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        factor, added = (decay, now) if constant else now
        state = _plus(_times(factor, state), added)
        return state, state

    steps = inputs if constant else (decay, inputs)
    return jax.lax.scan(step, carry, steps, unroll=1 if constant else steps_at_once(4, inputs))[1]


def scan_in_parallel(decay: Parts, inputs: Parts, carry: Parts) -> Parts:
    """Compute the states of :func:`linear_scan` as a prefix sum of maps from state to state."""
    first, time = decay, inputs[0].shape[0]
    if _is_constant(decay, inputs):
        decay = tuple(jnp.broadcast_to(part, (time, *part.shape)) for part in decay)
    else:
        first = tuple(part[0] for part in decay)

    def compose(one: tuple[Parts, Parts], then: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        return _times(then[0], one[0]), _plus(_times(then[0], one[1]), then[1])

    added = zip(inputs, _times(first, carry), strict=True)
    inputs = tuple(part.at[0].add(of_carry) for part, of_carry in added)
    return jax.lax.associative_scan(compose, (decay, inputs))[1]


@_compute_states.defjvp
def _differentiate(
    primals: tuple[Parts, Parts, Parts], tangents: tuple[Parts, Parts, Parts]
) -> tuple[Parts, Parts]:
    """Linearize the recurrence; JAX derives the gradient by transposing this."""
    states = _compute_states(*primals)
    arguments = states, primals, tangents
    if steps_at_once(4, states) == 1:
        return states, _tangent_in_order(*arguments)
    scans = {"cpu": _tangent_in_order, "default": partial(_tangent_by, scan_in_parallel)}
    return states, jax.lax.platform_dependent(*arguments, **scans)


def _tangent_by(
    scan: Callable[[Parts, Parts, Parts], Parts],
    states: Parts,
    primals: tuple[Parts, Parts, Parts],
    tangents: tuple[Parts, Parts, Parts],
) -> Parts:
    """Compute the tangent of all states, which obeys the same recurrence, by a scan."""
    (decay, inputs, carry), (of_decay, of_inputs, of_carry) = primals, tangents
    if _is_constant(decay, inputs):
        of_decay = tuple(part[None] for part in of_decay)
    pairs = zip(carry, states, strict=True)
    before = tuple(jnp.concatenate([first[None], later[:-1]]) for first, later in pairs)
    return scan(decay, _plus(of_inputs, _times(of_decay, before)), of_carry)


def _tangent_in_order(
    states: Parts, primals: tuple[Parts, Parts, Parts], tangents: tuple[Parts, Parts, Parts]
) -> Parts:
    """Compute the tangent of all states; of a constant decay, in a single pass over memory."""
    (decay, inputs, carry), (of_decay, of_inputs, of_carry) = primals, tangents
    if not _is_constant(decay, inputs):
        return _tangent_by(scan_in_order, states, primals, tangents)

    def multiply(state: Parts, of_state: Parts) -> Parts:
        return _plus(_times(decay, of_state), _times(of_decay, state))

    def step(decayed: Parts, now: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        state, of_inputs = now
        of_state = _plus(decayed, of_inputs)
        return multiply(state, of_state), of_state

    return jax.lax.scan(step, multiply(carry, of_carry), (states, of_inputs))[1]
