"""Linear elementwise recurrences, which run in parallel over time."""

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
    that is slower, sequentially. Both give the same result to float rounding. The gradient, written
    by hand, is the same recurrence, backwards in time. Forward mode needs a constant decay.

    Args:
      decay: :math:`a`, of the dtype of the inputs. With fewer axes than they have, it is
        constant over time; its magnitude must then be at most 1 if there are ``lengths``.
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
    carry = jnp.zeros_like(inputs[0]) if carry is None else carry
    if jnp.ndim(decay) < inputs.ndim:
        decay = jnp.expand_dims(decay, range(inputs.ndim - 1 - jnp.ndim(decay)))
        parts = scan_constant(parts_of(decay), parts_of(inputs), parts_of(carry))
    else:
        decay, _ = mask_steps(decay, lengths)
        inputs = inputs.at[0].add(decay[0] * carry)
        parts = _scan_from_zero(parts_of(decay), parts_of(inputs))
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


def parts_of(numbers: Array) -> Parts:
    """Return the real and, of complex numbers, the imaginary part."""
    return (numbers.real, numbers.imag) if jnp.iscomplexobj(numbers) else (numbers,)


def _times(one: Parts, other: Parts) -> Parts:
    if len(one) == 1:
        return (one[0] * other[0],)
    (a, b), (c, d) = one, other
    return a * c - b * d, a * d + b * c


def _plus(one: Parts, other: Parts) -> Parts:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _conjugate(one: Parts) -> Parts:
    return *one[:1], *(-imaginary for imaginary in one[1:])


@jax.custom_vjp
def _scan_from_zero(decay: Parts, inputs: Parts) -> Parts:
    if steps_at_once(4, inputs) == 1:  # a prefix sum requires a static number of time steps
        return scan_in_order(decay, inputs)
    return jax.lax.platform_dependent(decay, inputs, cpu=scan_in_order, default=scan_in_parallel)


def scan_in_order(decay: Parts, inputs: Parts) -> Parts:
    """Compute :func:`linear_scan` from 0, one time step at a time."""

    def step(state: Parts, now: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        decay, added = now
        state = _plus(_times(decay, state), added)
        return state, state

    zeros = tuple(jnp.zeros_like(part[0]) for part in inputs)
    return jax.lax.scan(step, zeros, (decay, inputs), unroll=steps_at_once(4, inputs))[1]


def scan_in_parallel(decay: Parts, inputs: Parts) -> Parts:
    """Compute :func:`linear_scan` from 0, as a prefix sum of maps from one state to the next."""

    def compose(first: tuple[Parts, Parts], then: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        return _times(then[0], first[0]), _plus(_times(then[0], first[1]), then[1])

    return jax.lax.associative_scan(compose, (decay, inputs))[1]


def _linear_forward(decay: Parts, inputs: Parts) -> tuple[Parts, tuple[Parts, Parts]]:
    states = _scan_from_zero(decay, inputs)
    return states, (decay, states)


def _linear_backward(kept: tuple[Parts, Parts], of_states: Parts) -> tuple[Parts, Parts]:
    # The gradient is the same recurrence, backwards in time.
    decay, states = map(_conjugate, kept)
    zero = lambda part: jnp.zeros_like(part[:1])  # noqa: E731
    later = tuple(jnp.concatenate([part[1:], zero(part)]) for part in decay)
    flip = partial(jax.tree.map, partial(jnp.flip, axis=0))
    deltas = flip(_scan_from_zero(flip(later), flip(of_states)))
    before = tuple(jnp.concatenate([zero(part), part[:-1]]) for part in states)
    return _times(deltas, before), deltas


_scan_from_zero.defvjp(_linear_forward, _linear_backward)


# With a decay that is the same at all time steps, a gradient takes a single pass over memory.
@jax.custom_jvp
def scan_constant(decay: Parts, inputs: Parts, carry: Parts) -> Parts:
    """Compute the states of :func:`linear_scan` for a decay without the axis of time."""
    if steps_at_once(4, inputs) == 1:
        return _constant_in_order(decay, inputs, carry)
    scans = _constant_in_order, _constant_in_parallel
    return jax.lax.platform_dependent(decay, inputs, carry, cpu=scans[0], default=scans[1])


def _constant_in_order(decay: Parts, inputs: Parts, carry: Parts) -> Parts:
    def step(state: Parts, added: Parts) -> tuple[Parts, Parts]:
        state = _plus(_times(decay, state), added)
        return state, state

    return jax.lax.scan(step, carry, inputs)[1]


def _constant_in_parallel(decay: Parts, inputs: Parts, carry: Parts) -> Parts:
    first = zip(inputs, _times(decay, carry), strict=True)
    inputs = tuple(part.at[0].add(decayed) for part, decayed in first)
    decays = tuple(jnp.broadcast_to(part, (len(inputs[0]), *part.shape)) for part in decay)
    return scan_in_parallel(decays, inputs)


@scan_constant.defjvp
def _linearize(
    primals: tuple[Parts, Parts, Parts], tangents: tuple[Parts, Parts, Parts]
) -> tuple[Parts, Parts]:
    """Compute states and their tangents; JAX derives the gradient by transposing this."""
    states = scan_constant(*primals)
    if steps_at_once(4, states) == 1:
        return states, _tangent_in_order(states, primals, tangents)
    scans = _tangent_in_order, _tangent_in_parallel
    tangent = jax.lax.platform_dependent(states, primals, tangents, cpu=scans[0], default=scans[1])
    return states, tangent


def _tangent_in_order(
    states: Parts, primals: tuple[Parts, Parts, Parts], tangents: tuple[Parts, Parts, Parts]
) -> Parts:
    (decay, _, carry), (of_decay, of_inputs, of_carry) = primals, tangents

    def multiply(state: Parts, of_state: Parts) -> Parts:
        return _plus(_times(decay, of_state), _times(of_decay, state))

    def step(decayed: Parts, now: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        state, of_inputs = now
        of_state = _plus(decayed, of_inputs)
        return multiply(state, of_state), of_state

    return jax.lax.scan(step, multiply(carry, of_carry), (states, of_inputs))[1]


def _tangent_in_parallel(
    states: Parts, primals: tuple[Parts, Parts, Parts], tangents: tuple[Parts, Parts, Parts]
) -> Parts:
    (decay, _, carry), (of_decay, of_inputs, of_carry) = primals, tangents
    pairs = zip(carry, states, strict=True)
    before = tuple(jnp.concatenate([first[None], later[:-1]]) for first, later in pairs)
    added = _times(tuple(part[None] for part in of_decay), before)
    return _constant_in_parallel(decay, _plus(of_inputs, added), of_carry)
