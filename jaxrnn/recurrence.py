"""RNN: a drop-in ``flax.linen.RNN`` with a hand-written gradient for the Elman cell."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.linen.recurrent import flip_sequences
from jax.custom_derivatives import SymbolicZero

# f' as a function of the state h = f(z), so that only states are kept for the backward pass.
_DERIVATIVES: dict[Any, Callable[[jax.Array], jax.Array]] = {
    jnp.tanh: lambda h: 1 - h * h,
    nn.relu: lambda h: (h > 0).astype(h.dtype),
    nn.sigmoid: lambda h: h * (1 - h),
}


class RNN(nn.RNN):
    r"""A drop-in replacement for ``flax.linen.RNN``, faster for ``flax.linen.SimpleCell``.

    Constructor, call, parameters and, to float rounding, results are the same. For the cell

    .. math:: h_t = f(x_t W_i + b_i + h_{t-1} W_h)

    the input projections of all time steps are one matrix product. The gradient is written by hand:
    the backward scan carries only

    .. math:: \delta_t = f'_t \odot (g_t + \delta_{t+1} W_h^\top)

    with :math:`g_t` the gradient of the loss with respect to :math:`h_t` as an output, and each
    weight gradient is one contraction over all time steps and examples after the scan, as in
    :math:`\nabla W_h = \sum_t h_{t-1}^\top \delta_t`. Nothing is computed twice.

    With an activation other than tanh, relu and sigmoid, JAX differentiates the scan. It does so
    for ``flax.linen.GRUCell`` too, whose three input projections are one product and whose three
    recurrent projections are another. Other cells and non-default ``variable_*`` options run in
    ``flax.linen.RNN`` itself; for LSTMs a single product was measured to be no faster.

    Gradients of gradients work in reverse mode. Forward mode (``jvp``, ``jacfwd``, ``hessian``)
    can't differentiate a hand-written gradient, and JAX raises a ``TypeError``; use ``nn.RNN``.

    Source: P. J. Werbos, "Backpropagation through time: what it does and how to do it" (1990).

    >>> model = RNN(nn.SimpleCell(features=4))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 7, 3)))
    >>> model.apply(variables, jnp.zeros((2, 7, 3))).shape  # (batch, time, hidden)
    (2, 7, 4)
    """

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Any = None,
        init_key: Any = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Apply the cell over time: the arguments and results are those of ``flax.linen.RNN``."""
        options = {
            "return_carry": self.return_carry if return_carry is None else return_carry,
            "time_major": self.time_major if time_major is None else time_major,
            "reverse": self.reverse if reverse is None else reverse,
            "keep_order": self.keep_order if keep_order is None else keep_order,
        }
        fall_through = partial(
            super().__call__,
            inputs,
            initial_carry=initial_carry,
            init_key=init_key,
            seq_lengths=seq_lengths,
            **options,
        )
        time_axis = 0 if options["time_major"] else inputs.ndim - 2
        if not self._has_fast_path() or inputs.ndim < 2 or not inputs.shape[time_axis]:
            return fall_through()

        def flip(sequences: jax.Array) -> jax.Array:
            return flip_sequences(
                sequences, seq_lengths, inputs.ndim - 2, time_major=options["time_major"]
            )

        flipped = flip(inputs) if options["reverse"] else inputs
        steps = jnp.moveaxis(flipped, time_axis, 0)  # (time, *batch, features)

        cell = self.cell
        carry = initial_carry
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = cell.initialize_carry(key, steps.shape[1:])
        if self.is_initializing():
            cell(carry, steps[0])  # creates the parameters, with the keys that nn.RNN would use
        params = cell.variables["params"]
        join = _join_gru if type(cell) is nn.GRUCell else _join_simple
        steps, *weights = promote_dtype(steps, *join(params), dtype=cell.dtype)
        if carry.dtype != steps.dtype:
            return fall_through()  # the type of the carry changes, which Flax handles

        # One row per time step and example: one matrix product, and one in each direction back.
        kernel, bias, *recurrent = weights
        rows = steps.reshape(-1, steps.shape[-1]) @ kernel + bias[None]
        projected = rows.reshape(*steps.shape[:-1], -1)
        scan: Callable[..., Any]
        if type(cell) is nn.GRUCell:
            scan = partial(_scan_gru, cell.gate_fn, cell.activation_fn, self.unroll)
        else:
            own = cell.activation_fn in _DERIVATIVES
            scan = partial(
                _differentiable_scan if own else _scan,
                *(cell.activation_fn, cell.residual, self.unroll),
            )
        last, states = scan(projected, carry, *recurrent)
        if seq_lengths is not None and options["return_carry"]:
            last = states[seq_lengths - 1, jnp.arange(states.shape[1])]

        outputs = jnp.moveaxis(states, 0, time_axis)
        if options["reverse"] and options["keep_order"]:
            outputs = flip(outputs)
        return (last, outputs) if options["return_carry"] else outputs

    def _has_fast_path(self) -> bool:
        defaults = (
            not self.variable_axes
            and self.variable_broadcast == "params"
            and self.variable_carry is False
            and dict(self.split_rngs) == {"params": False}
        )
        return type(self.cell) in (nn.SimpleCell, nn.GRUCell) and defaults


def _join_simple(params: Any) -> tuple[jax.Array, ...]:
    """The kernel and bias of the input, and the kernel of the recurrence."""
    return params["i"]["kernel"], params["i"]["bias"], params["h"]["kernel"]


def _join_gru(params: Any) -> tuple[jax.Array, ...]:
    """The same for all three gates side by side, and the bias of the last recurrence."""
    kernel = jnp.concatenate([params[f"i{gate}"]["kernel"] for gate in "rzn"], axis=-1)
    bias = jnp.concatenate([params[f"i{gate}"]["bias"] for gate in "rzn"])
    recurrent = jnp.concatenate([params[f"h{gate}"]["kernel"] for gate in "rzn"], axis=-1)
    return kernel, bias, recurrent, params["hn"]["bias"]


def _scan(
    activation: Callable[[jax.Array], jax.Array],
    residual: bool,
    unroll: int,
    projected: jax.Array,
    carry: jax.Array,
    kernel: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Scan (time, *batch, hidden) input projections; returns the last state and all states."""

    def step(state: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = inputs + state @ kernel
        state = activation(total + state if residual else total)
        return state, state

    return jax.lax.scan(step, carry, projected, unroll=unroll)


def _scan_gru(
    gate: Callable[[jax.Array], jax.Array],
    activation: Callable[[jax.Array], jax.Array],
    unroll: int,
    projected: jax.Array,
    carry: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Scan (time, *batch, 3 hidden) input projections; returns the last state and all states."""

    def step(state: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        reset, update, new = jnp.split(inputs, 3, axis=-1)
        of_reset, of_update, of_new = jnp.split(state @ kernel, 3, axis=-1)
        r, z = gate(reset + of_reset), gate(update + of_update)
        candidate = activation(new + r * (of_new + jnp.expand_dims(bias, range(of_new.ndim - 1))))
        state = (1 - z) * candidate + z * state
        return state, state

    return jax.lax.scan(step, carry, projected, unroll=unroll)


_differentiable_scan = jax.custom_vjp(_scan, nondiff_argnums=(0, 1, 2))


def _scan_forward(activation, residual, unroll, projected, carry, kernel):  # type: ignore
    projected, carry, kernel = projected.value, carry.value, kernel.value
    last, states = _scan(activation, residual, unroll, projected, carry, kernel)
    return (last, states), (carry, states, kernel)


def _scan_backward(activation, residual, unroll, kept, gradients):  # type: ignore
    carry, states, kernel = kept
    of_last, of_states = gradients
    derivative, transposed = _DERIVATIVES[activation], kernel.T
    # If only the last state is read, no array of zeros is created for the others.
    of_states = None if isinstance(of_states, SymbolicZero) else of_states
    if isinstance(of_last, SymbolicZero):
        of_last = jnp.zeros_like(carry)

    def step(of_state, inputs):  # type: ignore
        state, from_outside = inputs
        if from_outside is not None:
            of_state = of_state + from_outside
        delta = of_state * derivative(state)
        of_state = delta @ transposed
        return of_state + delta if residual else of_state, delta

    of_carry, deltas = jax.lax.scan(step, of_last, (states, of_states), reverse=True, unroll=unroll)
    hidden = kernel.shape[0]
    of_kernel = states[:-1].reshape(-1, hidden).T @ deltas[1:].reshape(-1, hidden) + carry.reshape(
        -1, hidden
    ).T @ deltas[0].reshape(-1, hidden)
    return deltas, of_carry, of_kernel


_differentiable_scan.defvjp(_scan_forward, _scan_backward, symbolic_zeros=True)
