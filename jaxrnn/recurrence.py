"""RNN: a drop-in ``flax.linen.RNN`` that trains the Elman cell about twice as fast."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.linen.recurrent import flip_sequences
from jax.custom_derivatives import SymbolicZero

UNROLL = 4  # time steps in a loop iteration: fewer, longer iterations cost less on a CPU


class RNN(nn.RNN):
    r"""``flax.linen.RNN`` with a faster path for ``flax.linen.SimpleCell``.

    Same constructor, same call, same parameters, same results to float rounding. For the cell

    .. math:: h_t = f(x_t W_i + b_i + h_{t-1} W_h)

    the input projections of all time steps are one matrix product, and the gradient is written by
    hand: the backward scan carries only

    .. math:: \delta_t = f'_t \odot (g_t + \delta_{t+1} W_h^\top)

    and each weight gradient is one contraction over all time steps and examples after it,
    :math:`\nabla W_h = \sum_t h_{t-1}^\top \delta_t`. Nothing is computed twice.

    Any other cell, and any ``variable_*`` option that asks for more than shared parameters, runs in
    ``flax.linen.RNN`` itself. Gradients of gradients work; forward-mode differentiation (``jvp``,
    ``jacfwd``, ``hessian``) does not pass a hand-written gradient, and JAX says so: use ``nn.RNN``.
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
        """See ``flax.linen.RNN.__call__``, whose arguments and results these are."""
        if type(self.cell) is not nn.SimpleCell or not self._shares_parameters():
            return super().__call__(
                inputs,
                initial_carry=initial_carry,
                init_key=init_key,
                seq_lengths=seq_lengths,
                return_carry=return_carry,
                time_major=time_major,
                reverse=reverse,
                keep_order=keep_order,
            )
