"""RNN: a drop-in ``flax.linen.RNN`` with a hand-written gradient for the Elman cell."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.linen.module import _global_interceptor_stack
from flax.linen.recurrent import flip_sequences

from jaxrnn.nn.cells import GATES, MinGRUCell, join_weights, shapes_of_weights
from jaxrnn.nn.scans import (
    DERIVATIVES,
    differentiable_scan,
    like,
    scan,
    scan_gru,
    scan_min_gru,
    steps_at_once,
    zero_unless,
)


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
    recurrent projections are another.
    :class:`jaxrnn.nn.MinGRUCell` runs in parallel over time.
    Other cells and non-default ``variable_*`` options run in ``flax.linen.RNN`` itself; for LSTMs a
    single product was measured to be no faster.

    Gradients of gradients work, ``jax.hessian`` included. Forward mode
    (``jvp``, ``jacfwd``) can't differentiate a hand-written gradient, and JAX raises a
    ``TypeError``; use ``fast=False``.

    Where the cell itself must be called, it is: with ``nn.intercept_methods``, or with parameters
    of unexpected names or shapes, the call is that of ``flax.linen.RNN``, its errors included.

    Attributes:
      fast: use the scans above where they apply; False for those of ``flax.linen.RNN`` alone.
      mask: ignore what inputs contain after ``seq_lengths``, even NaN, in gradients too. Outputs
        of these time steps are finite but otherwise unspecified. Without it, the cell goes on over
        them, as in ``flax.linen.RNN``, and its states may overflow.

    Source: P. J. Werbos, "Backpropagation through time: what it does and how to do it" (1990).

    >>> model = RNN(nn.SimpleCell(features=4))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 7, 3)))
    >>> model.apply(variables, jnp.zeros((2, 7, 3))).shape  # (batch, time, hidden)
    (2, 7, 4)
    """

    fast: bool = True
    mask: bool = False

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
        dropout: jax.Array | None = None,
    ) -> Any:
        """Apply the cell over time: the arguments and results are those of ``flax.linen.RNN``.

        ``dropout`` (*batch, hidden) are factors, the same at all time steps, of the state where the
        cell's recurrent kernels are applied to it: the mask of recurrent dropout.

        Raises:
          ValueError: with ``dropout``, for cells other than ``SimpleCell`` and ``GRUCell``, with
            ``fast``, and LSTMs.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        flax_call = partial(
            super().__call__,
            inputs,
            initial_carry=initial_carry,
            init_key=init_key,
            seq_lengths=seq_lengths,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )
        masked = self.mask and seq_lengths is not None
        batch_axes = inputs.ndim - self.cell.num_feature_axes - 1
        own = masked or dropout is not None
        if not (self._may_be_fast() or own) or batch_axes < 0 or not inputs.size:
            return flax_call()

        time_axis = 0 if time_major else batch_axes
        flip = partial(
            flip_sequences,
            seq_lengths=seq_lengths,
            num_batch_dims=batch_axes,
            time_major=time_major,
        )
        steps = jnp.moveaxis(flip(inputs) if reverse else inputs, time_axis, 0)
        valid = _valid(steps.shape[0], seq_lengths) if masked else None  # (time, *batch)
        steps = zero_unless(valid, steps)
        carry = initial_carry
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = self.cell.initialize_carry(key, steps.shape[1:])
        result = self._fast_scan(steps, carry, valid, dropout)
        fast = result is not None
        if not fast and not own:
            return flax_call()
        last, states = result if fast else self._cell_scan(steps, carry, valid, dropout)
        if fast and seq_lengths is not None and return_carry:
            last = states[seq_lengths - 1, jnp.arange(states.shape[1])]

        outputs = jnp.moveaxis(states, 0, time_axis)
        outputs = flip(outputs) if reverse and keep_order else outputs
        return (last, outputs) if return_carry else outputs

    def _may_be_fast(self) -> bool:
        defaults = (
            not self.variable_axes
            and self.variable_broadcast == "params"
            and self.variable_carry is False
            and dict(self.split_rngs) == {"params": False}
        )
        return self.fast and type(self.cell) in GATES and defaults and not _global_interceptor_stack

    def _fast_scan(
        self, steps: jax.Array, carry: Any, valid: jax.Array | None, dropout: jax.Array | None
    ) -> Any:
        """The last state and all states; None if the cell itself must be called."""
        if not self._may_be_fast():
            return None
        cell: Any = self.cell
        if self.is_initializing():
            cell(carry, steps[0])  # creates the parameters, with the keys that nn.RNN would use
        params = nn.meta.unbox(cell.variables.get("params", {}))
        if not _has_shapes(params, shapes_of_weights(cell, steps.shape[-1])):
            return None  # Flax raises its own error
        steps, *weights = promote_dtype(steps, *join_weights(cell, params), dtype=cell.dtype)
        if carry.dtype != steps.dtype:
            return None  # the type of the carry changes, which Flax handles

        # One row per time step and example: one matrix product, and one in each direction back.
        kernel, bias, *recurrent = weights
        rows = steps.reshape(-1, steps.shape[-1]) @ kernel + bias[None]
        projected = rows.reshape(*steps.shape[:-1], -1)
        if type(cell) is MinGRUCell:
            _check_dropout(dropout is None)
            return scan_min_gru(cell.gate_fn, projected, carry)
        gru = type(cell) is nn.GRUCell
        bounded = _is_one_of(cell.activation_fn, (nn.tanh, nn.sigmoid))
        if bounded and (not gru or cell.gate_fn is nn.sigmoid):
            valid = None  # states can't overflow, and what follows the end may be anything
        arguments: Any = (projected, carry, *recurrent, valid)
        if gru:
            return partial(scan_gru, dropout=dropout)(
                cell.gate_fn, cell.activation_fn, self.unroll, *arguments
            )
        if dropout is None and _is_one_of(cell.activation_fn, DERIVATIVES):
            run: Any = differentiable_scan
        else:
            run = partial(scan, dropout=dropout)
        return run(cell.activation_fn, cell.residual, self.unroll, *arguments)

    def _cell_scan(
        self, steps: jax.Array, carry: Any, valid: jax.Array | None, dropout: jax.Array | None
    ) -> tuple[Any, Any]:
        """The last carry and all outputs of any cell; at the end of a sequence its carry stays."""
        lstm = isinstance(self.cell, nn.LSTMCell | nn.OptimizedLSTMCell)
        _check_dropout(dropout is None or lstm)

        def step(cell: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
            steps, valid = inputs
            read = carry if dropout is None else (carry[0], carry[1] * dropout)
            new, outputs = cell(read, steps)
            if valid is not None:
                keep = lambda new, old: jnp.where(like(valid, new), new, old)  # noqa: E731
                new = jax.tree.map(keep, new, carry)
            return new, outputs

        scan = nn.scan(
            step,
            unroll=steps_at_once(self.unroll, steps),
            variable_axes=self.variable_axes,
            variable_broadcast=self.variable_broadcast,
            variable_carry=self.variable_carry,
            split_rngs=self.split_rngs,
        )
        return scan(self.cell, carry, (steps, valid))


def _check_dropout(possible: bool) -> None:
    if not possible:
        raise ValueError(
            "recurrent dropout needs cell simple or gru, with the fast recurrence, or lstm"
        )


def _is_one_of(function: Any, functions: Iterable[Any]) -> bool:
    """Whether it is one of these; functions need not be hashable."""
    return any(function is one for one in functions)


def _valid(time: int, lengths: jax.Array) -> jax.Array:
    """Whether each time step is before the end of its sequence: (time, *batch)."""
    steps = jnp.arange(time, dtype=lengths.dtype)
    return steps.reshape(-1, *[1] * lengths.ndim) < lengths[None]


def _has_shapes(params: Any, shapes: dict[tuple[str, str], tuple[int, ...]]) -> bool:
    return all(
        module in params and name in params[module] and jnp.shape(params[module][name]) == shape
        for (module, name), shape in shapes.items()
    )
