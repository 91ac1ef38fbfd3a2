"""Linear elementwise recurrences, computed in parallel over time, and the minGRU cell."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float, Key

from jaxrnn.nn.scans import Activation
from jaxrnn.nn.sequences import (
    Lengths,
    State,
    States,
    Steps,
    last_valid,
    mask_steps,
    project,
    scan,
    steps_at_once,
)

# Real and, if complex, imaginary parts, kept in separate arrays because that is faster.
Parts = tuple[Array, ...]


def linear_scan(
    decay: Array, inputs: States, carry: State | None = None, *, lengths: Lengths | None = None
) -> tuple[State, States]:
    r"""Compute the states of a linear recurrence of real or complex numbers.

    .. math:: h_t = a_t \odot h_{t-1} + b_t

    On accelerators it runs in parallel over time, by ``jax.lax.associative_scan``; on a CPU, where
    that is slower, sequentially. Both give the same result to float rounding.

    Args:
      decay: :math:`a`, of the dtype of ``inputs``. If it has fewer axes than ``inputs``, it is
        constant over time: forward mode (``jvp``) requires this, and with ``lengths``, its
        magnitude should be at most 1.
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
    inputs, _ = mask_steps(jnp.asarray(inputs), lengths)
    carry = jnp.zeros_like(inputs[0]) if carry is None else carry
    if jnp.ndim(decay) < inputs.ndim:
        decay = jnp.expand_dims(decay, range(carry.ndim - jnp.ndim(decay)))
        states = _scan_constant(decay, carry, inputs)
    else:
        decay, _ = mask_steps(decay, lengths)
        states = _scan_from_zero(decay, inputs.at[0].add(decay[0] * carry))
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


class MinGRUCell(nn.RNNCellBase):
    r"""A minimal gated recurrent unit, whose gate and candidate don't depend on the state.

    .. math::

        z_t = \sigma(x_t W_z + b_z), \quad
        h_t = (1 - z_t) \odot h_{t-1} + z_t \odot (x_t W_n + b_n)

    The recurrence is linear and elementwise, so :class:`jaxrnn.RNN` computes it in parallel over
    time.

    References:
      L. Feng, F. Tung, M. O. Ahmed, Y. Bengio and H. Hajimirsadeghi, "Were RNNs all we needed?"
      (2024).

    >>> cell = MinGRUCell(features=4)
    >>> variables = cell.init(jax.random.key(0), jnp.zeros((2, 4)), jnp.zeros((2, 3)))
    >>> state, outputs = cell.apply(variables, jnp.zeros((2, 4)), jnp.ones((2, 3)))
    >>> outputs.shape
    (2, 4)
    """

    features: int
    gate_fn: Activation = nn.sigmoid
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, carry: State, inputs: Float[Array, "*batch features"]
    ) -> tuple[State, State]:
        """Compute the next state, which is also the output."""
        dense = partial(
            nn.Dense,
            self.features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
        )
        update = self.gate_fn(dense(name="iz")(inputs))
        state = (1 - update) * carry + update * dense(name="in")(inputs)
        return state, state

    @nn.nowrap
    def initialize_carry(self, rng: Key[Array, ""], input_shape: tuple[int, ...]) -> State:
        """Create the initial state."""
        return self.carry_init(rng, (*input_shape[:-1], self.features), self.param_dtype)

    num_feature_axes = 1  # of the inputs


@jax.custom_vjp
def _scan_from_zero(decay: States, inputs: States) -> States:
    return _on_platform(scan_in_order, scan_in_parallel, decay, inputs)


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


@jax.custom_jvp
def _scan_constant(decay: State, carry: State, inputs: States) -> States:
    return _on_platform(_constant_in_order, _constant_in_parallel, decay, carry, inputs)


def _constant_in_order(decay: State, carry: State, inputs: States) -> States:
    def step(state: Parts, added: Parts) -> tuple[Parts, Parts]:
        state = _parts(decay * _joined(state) + _joined(added))
        return state, state

    # Unrolling the loop was slower in benchmarks.
    return _joined(jax.lax.scan(step, _parts(carry), _parts(inputs))[1])


def _constant_in_parallel(decay: State, carry: State, inputs: States) -> States:
    decays = jnp.broadcast_to(decay, (len(inputs), *decay.shape))
    return scan_in_parallel(decays, inputs.at[0].add(decay * carry))


@_scan_constant.defjvp
def _linearize(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[States, States]:
    """Compute states and their tangents; JAX derives the gradient by transposing this."""
    (decay, carry, _), states = primals, _scan_constant(*primals)
    arguments = decay, *tangents, carry, states
    return states, _on_platform(_tangent_in_order, _tangent_in_parallel, *arguments)


def _tangent_in_order(
    decay: State, of_decay: State, of_carry: State, of_inputs: States, carry: State, states: States
) -> States:
    """Compute the tangent; its transpose reads each state once and sums the decay's gradient."""

    def decayed(state: Parts, of_state: State) -> Parts:
        # JAX would store the states once more if their parts were joined here.
        of_product = _times(_parts(of_decay), state)
        return tuple(map(jnp.add, _parts(decay * of_state), of_product))

    def step(before: Parts, now: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        state, added = now
        of_state = _joined(before) + _joined(added)
        return decayed(state, of_state), _parts(of_state)

    steps = _parts(states), _parts(of_inputs)
    return _joined(jax.lax.scan(step, decayed(_parts(carry), of_carry), steps)[1])


def _tangent_in_parallel(
    decay: State, of_decay: State, of_carry: State, of_inputs: States, carry: State, states: States
) -> States:
    before = jnp.concatenate([carry[None], states[:-1]])
    return _constant_in_parallel(decay, of_carry, of_inputs + of_decay[None] * before)


def _on_platform(
    in_order: Callable[..., States], in_parallel: Callable[..., States], *arguments: Array
) -> States:
    if steps_at_once(4, arguments[-1]) == 1:  # a prefix sum requires a static number of time steps
        return in_order(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=in_order, default=in_parallel)


def _parts(numbers: Array) -> Parts:
    return (numbers.real, numbers.imag) if jnp.iscomplexobj(numbers) else (numbers,)


def _times(one: Parts, other: Parts) -> Parts:
    if len(one) == 1:
        return (one[0] * other[0],)
    (a, b), (c, d) = one, other
    return a * c - b * d, a * d + b * c


def _joined(parts: Parts) -> Array:
    return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]
