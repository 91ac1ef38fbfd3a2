"""Recurrences as pure functions of inputs, an initial state and weights."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxrnn.nn.sequences import (
    Lengths,
    State,
    States,
    Steps,
    Valid,
    dense,
    last_valid,
    map_rows,
    mask_steps,
    project,
    scan,
    steps_at_once,
    where_valid,
)

Activation = Callable[[Array], Array]
Kernel = Float[Array, "hidden hidden"]

# f' as a function of the state h = f(z), so that z need not be kept for the gradient.
DERIVATIVES: dict[Activation, Activation] = {
    jnp.tanh: lambda h: 1 - h * h,
    nn.relu: lambda h: (h > 0).astype(h.dtype),
    nn.sigmoid: lambda h: h * (1 - h),
}
BOUNDED = (jnp.tanh, nn.sigmoid)


def elman_scan(
    inputs: Steps,
    carry: State,
    kernel: Float[Array, "features hidden"],
    bias: Float[Array, "hidden"],
    recurrent_kernel: Kernel,
    *,
    lengths: Lengths | None = None,
    activation: Activation = jnp.tanh,
    residual: bool = False,
    unroll: int = 1,
    dropout: State | None = None,
) -> tuple[State, States]:
    r"""Compute the states of an Elman network.

    .. math:: h_t = f(x_t W_i + b_i + h_{t-1} W_h)

    A pure function of time-major arrays, for use without Flax. The derivative is written by hand
    if :math:`f` is tanh, relu or sigmoid and there is no ``dropout``; see :class:`jaxrnn.RNN`.

    Args:
      inputs: :math:`x`. There may be any number of batch axes.
      carry: the state before the first time step, of the same dtype as the result.
      kernel: :math:`W_i`.
      bias: :math:`b_i`.
      recurrent_kernel: :math:`W_h`.
      lengths: number of valid time steps of each sequence; by default all are valid. Inputs after
        them are ignored, even NaN, and the states there are finite but otherwise unspecified.
      activation: :math:`f`.
      residual: add :math:`h_{t-1}` to the argument of :math:`f`.
      unroll: number of time steps per loop iteration.
      dropout: mask of recurrent dropout, multiplied with :math:`h_{t-1}` in :math:`h_{t-1} W_h`.

    Returns:
      The state after the last valid time step, which is ``carry`` if there is none, and all states.

    >>> kernel, bias, recurrent_kernel = jnp.ones((3, 4)), jnp.zeros(4), jnp.eye(4)
    >>> inputs, carry = jnp.ones((7, 2, 3)), jnp.zeros((2, 4))
    >>> last, states = elman_scan(inputs, carry, kernel, bias, recurrent_kernel)
    >>> states.shape  # (time, batch, hidden)
    (7, 2, 4)
    """
    inputs, valid = mask_steps(inputs, lengths)
    valid = None if activation in BOUNDED else valid  # bounded states can't overflow
    known = activation in [*DERIVATIVES]  # a list: activations need not be hashable
    run = _scan_elman if known and dropout is None else _scan_elman_plainly
    projected = project(inputs, kernel, bias)
    last, states = run(
        activation, residual, unroll, projected, carry, recurrent_kernel, valid, dropout
    )
    return last_valid(last, states, carry, lengths), states


def gru_scan(
    inputs: Steps,
    carry: State,
    kernel: Float[Array, "features joined"],
    bias: Float[Array, "joined"],
    recurrent_kernel: Float[Array, "hidden joined"],
    recurrent_bias: Float[Array, "hidden"] | None = None,
    *,
    lengths: Lengths | None = None,
    gate: Activation = nn.sigmoid,
    activation: Activation = jnp.tanh,
    unroll: int = 1,
    dropout: State | None = None,
) -> tuple[State, States]:
    r"""Compute the states of a gated recurrent unit.

    .. math::

        r_t &= \sigma(x_t W_{ir} + b_{ir} + h_{t-1} W_{hr}) \\
        z_t &= \sigma(x_t W_{iz} + b_{iz} + h_{t-1} W_{hz}) \\
        n_t &= f(x_t W_{in} + b_{in} + r_t \odot (h_{t-1} W_{hn} + b_{hn})) \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}

    Arguments that are not listed, and the results, are those of :func:`elman_scan`.

    Args:
      kernel: :math:`W_{ir}`, :math:`W_{iz}` and :math:`W_{in}`, joined along the last axis.
      bias: :math:`b_{ir}`, :math:`b_{iz}` and :math:`b_{in}`, joined.
      recurrent_kernel: :math:`W_{hr}`, :math:`W_{hz}` and :math:`W_{hn}`, joined.
      recurrent_bias: :math:`b_{hn}`; by default 0.
      gate: :math:`\sigma`.
      activation: :math:`f`.

    >>> kernel, bias, recurrent_kernel = jnp.ones((3, 12)), jnp.zeros(12), jnp.ones((4, 12))
    >>> inputs, carry = jnp.ones((7, 2, 3)), jnp.zeros((2, 4))
    >>> last, states = gru_scan(inputs, carry, kernel, bias, recurrent_kernel)
    >>> states.shape
    (7, 2, 4)
    """
    inputs, valid = mask_steps(inputs, lengths)
    valid = None if activation in BOUNDED and gate is nn.sigmoid else valid

    # The inputs of all time steps are not projected before the loop, as in elman_scan: with three
    # gates that takes more time for memory than one product saves.
    def next_state(state: State, inputs: Float[Array, "*batch features"]) -> State:
        reset, update, new = jnp.split(dense(inputs, kernel, bias), 3, axis=-1)
        read = state if dropout is None else state * dropout
        of_reset, of_update, of_new = jnp.split(read @ recurrent_kernel, 3, axis=-1)
        if recurrent_bias is not None:
            of_new = of_new + jnp.expand_dims(recurrent_bias, range(of_new.ndim - 1))
        r, z = gate(reset + of_reset), gate(update + of_update)
        return (1 - z) * activation(new + r * of_new) + z * state

    last, states = scan(next_state, unroll, inputs, carry, valid)
    return last_valid(last, states, carry, lengths), states


def lstm_scan(
    inputs: Steps,
    carry: tuple[State, State],
    kernel: Float[Array, "features joined"],
    bias: Float[Array, "joined"],
    recurrent_kernel: Float[Array, "hidden joined"],
    *,
    lengths: Lengths | None = None,
    gate: Activation = nn.sigmoid,
    activation: Activation = jnp.tanh,
    unroll: int = 1,
) -> tuple[tuple[State, State], States]:
    r"""Compute the states of a long short-term memory.

    .. math::

        (i_t, f_t, g_t, o_t) &= x_t W_i + b + h_{t-1} W_h \\
        c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \phi(g_t) \\
        h_t &= \sigma(o_t) \odot \phi(c_t)

    Arguments that are not listed are those of :func:`elman_scan`.

    Args:
      carry: :math:`c` and :math:`h` before the first time step.
      kernel: :math:`W_i`, with columns in the order of the gates.
      bias: :math:`b`, in the same order.
      recurrent_kernel: :math:`W_h`, in the same order.
      gate: :math:`\sigma`.
      activation: :math:`\phi`.

    Returns:
      :math:`c` and :math:`h` after the last valid time step, and all :math:`h`.

    >>> kernel, bias, recurrent_kernel = jnp.ones((3, 16)), jnp.zeros(16), jnp.ones((4, 16))
    >>> inputs, zeros = jnp.ones((7, 2, 3)), jnp.zeros((2, 4))
    >>> lstm_scan(inputs, (zeros, zeros), kernel, bias, recurrent_kernel)[1].shape
    (7, 2, 4)
    """

    def step(carry: tuple[State, State], inputs: Any) -> tuple[tuple[State, State], State]:
        (memory, state), (inputs, valid) = carry, inputs
        total = dense(inputs, kernel, bias) + state @ recurrent_kernel
        i, f, g, o = jnp.split(total, 4, axis=-1)
        new_memory = gate(f) * memory + gate(i) * activation(g)
        new_state = gate(o) * activation(new_memory)
        carry = where_valid(valid, new_memory, memory), where_valid(valid, new_state, state)
        return carry, carry[1]

    steps = mask_steps(inputs, lengths)
    return jax.lax.scan(step, carry, steps, unroll=steps_at_once(unroll, steps))


def _scan_elman_plainly(
    activation: Activation,
    residual: bool,
    unroll: int,
    projected: States,
    carry: State,
    kernel: Kernel,
    valid: Valid | None,
    dropout: State | None,
) -> tuple[State, States]:
    def next_state(state: State, inputs: State) -> State:
        total = inputs + (state if dropout is None else state * dropout) @ kernel
        return activation(total + state if residual else total)

    return scan(next_state, unroll, projected, carry, valid)


# The derivative is written by hand, for the activations in DERIVATIVES and without dropout.
_scan_elman = jax.custom_jvp(_scan_elman_plainly, nondiff_argnums=(0, 1, 2))


@_scan_elman.defjvp
def _scan_elman_jvp(
    activation: Activation,
    residual: bool,
    unroll: int,
    primals: tuple[chex.ArrayTree, ...],
    tangents: tuple[chex.ArrayTree, ...],
) -> tuple[tuple[State, States], tuple[State, States]]:
    """Linearize the scan; JAX derives the gradient by transposing this, last time step first."""
    _, carry, kernel, valid, _ = primals
    of_projected, of_carry, of_kernel, *_ = tangents
    last, states = _scan_elman(activation, residual, unroll, *primals)
    slopes, transposed = DERIVATIVES[activation](states), kernel.T

    # One product for all time steps, so that the kernel's gradient is one too, after the loop.
    later = map_rows(lambda rows: rows @ of_kernel, states[:-1])
    of_totals = of_projected + jnp.concatenate([(carry @ of_kernel)[None], later])

    def step(of_state: State, inputs: chex.ArrayTree) -> tuple[State, State]:
        of_total, slope, valid = inputs
        # The kernel is transposed twice, so that the loop of the gradient needs no transposed copy.
        of_total += jnp.einsum("...i,ji->...j", of_state, transposed)
        of_total = of_total + of_state if residual else of_total
        of_state = where_valid(valid, slope * of_total)
        return of_state, of_state

    steps = of_totals, slopes, valid
    return (last, states), jax.lax.scan(step, of_carry, steps, unroll=steps_at_once(unroll, steps))
