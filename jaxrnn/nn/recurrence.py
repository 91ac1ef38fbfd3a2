"""RNN: a drop-in ``flax.linen.RNN`` with a hand-written derivative of the Elman cell."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype
from flax.linen.module import _global_interceptor_stack
from jaxtyping import Array, Float, Int, Key

from jaxrnn.nn.cells import SCANNED, choose_scan, join_weights
from jaxrnn.nn.linear import MinGRUCell
from jaxrnn.nn.lru import LRUCell
from jaxrnn.nn.sequences import (
    Lengths,
    Scan,
    State,
    Steps,
    mask_steps,
    options_of,
    scan_in_direction,
    steps_at_once,
    where_valid,
)

OPTIONS = ("variable_axes", "variable_broadcast", "variable_carry", "split_rngs")  # of nn.scan


class RNN(nn.RNN):
    r"""A drop-in replacement for ``flax.linen.RNN``, faster for ``flax.linen.SimpleCell``.

    Use this one with modules of ``flax.linen``, and :class:`jaxrnn.nn.nnx.RNN` with those of
    ``flax.nnx``. The library's own models are of linen: such modules are values without parameters,
    so equal ones share compiled functions.

    Constructor, call, parameters and, to float rounding, results are the same. For the cell

    .. math:: h_t = f(x_t W_i + b_i + h_{t-1} W_h)

    the input projections of all time steps are one matrix product. The derivative is written by
    hand, so that the backward scan carries only

    .. math:: \delta_t = f'_t \odot (g_t + \delta_{t+1} W_h^\top)

    with :math:`g_t` the gradient of the loss with respect to :math:`h_t` as an output, and each
    weight gradient is one contraction over all time steps and examples after the scan, as in
    :math:`\nabla W_h = \sum_t h_{t-1}^\top \delta_t`. Nothing is computed twice.

    With activations other than tanh, relu and sigmoid, JAX differentiates the scan, as it does for
    ``flax.linen.GRUCell``, whose gates share one product of the inputs and one of the state.
    :class:`jaxrnn.nn.MinGRUCell` and :class:`jaxrnn.nn.LRUCell` run in parallel over time.
    Everything else runs in ``flax.linen.RNN`` itself: other cells (joined products are no faster
    for LSTMs), non-default ``variable_*`` options, ``nn.intercept_methods``, and parameters of
    unexpected names or shapes, so that errors are those of Flax.

    Derivatives of any order work, in reverse mode and in forward mode (``jvp``, ``jacfwd``), except
    that ``MinGRUCell`` has no forward mode: JAX raises a ``TypeError``; use ``fast=False``.

    Attributes:
      fast: use the scans above where they apply; False for ``flax.linen.RNN``'s alone.
      mask: ignore what inputs contain after ``seq_lengths``, even NaN, in gradients too. Outputs
        of these time steps are finite but otherwise unspecified. Without it, the cell goes on over
        them, as in ``flax.linen.RNN``, and its states may overflow; an LSTM with recurrent dropout
        ignores them in any case.

    References:
      P. J. Werbos, "Backpropagation through time: what it does and how to do it" (1990).

    >>> model = RNN(nn.SimpleCell(features=4))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 7, 3)))
    >>> model.apply(variables, jnp.zeros((2, 7, 3))).shape  # (batch, time, hidden)
    (2, 7, 4)
    """

    fast: bool = True
    mask: bool = False

    def __call__(
        self,
        inputs: Float[Array, "*batch_and_time features"],
        *,
        initial_carry: chex.ArrayTree | None = None,
        init_key: Key[Array, ""] | None = None,
        seq_lengths: Int[Array, "*batch"] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        dropout: State | None = None,
    ) -> chex.ArrayTree:
        """Apply the cell over time: the arguments and results are those of ``flax.linen.RNN``.

        ``dropout`` is the mask of recurrent dropout: factors, the same at all time steps, of the
        state that the cell's recurrent kernels are applied to.

        Raises:
          ValueError: there is ``dropout``, and the cell is neither an LSTM nor, with ``fast``,
            ``SimpleCell`` or ``GRUCell``.
        """
        options = options_of(self, return_carry, time_major, reverse, keep_order)
        flax_call = partial(
            super().__call__,
            inputs,
            initial_carry=initial_carry,
            init_key=init_key,
            seq_lengths=seq_lengths,
            **options,
        )
        batch_axes = inputs.ndim - self.cell.num_feature_axes - 1
        if batch_axes < 0 or not inputs.size:
            return flax_call()

        steps = jnp.moveaxis(inputs, 0 if options["time_major"] else batch_axes, 0)
        carry, lengths = initial_carry, seq_lengths if self.mask else None
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = self.cell.initialize_carry(key, steps.shape[1:])
        # The outputs of an LRU don't tell its last state.
        select_last = seq_lengths is not None and not self.mask
        slow = select_last and isinstance(self.cell, LRUCell)
        fast = None if slow else self._fast_scan(steps, carry, lengths, dropout)
        if fast is None and dropout is None and lengths is None:
            return flax_call()
        return scan_in_direction(
            fast or partial(self._cell_scan, carry, seq_lengths, dropout),
            steps,
            seq_lengths,
            batch_axes=batch_axes,
            select_last=fast is not None and select_last,
            **options,
        )

    def _fast_scan(
        self, steps: Steps, carry: chex.ArrayTree, lengths: Lengths | None, dropout: State | None
    ) -> Scan | None:
        """Return the scan over time steps; None if the cell itself must be called."""
        cell = self.cell
        usual = all(getattr(self, name) == getattr(nn.RNN, name) for name in OPTIONS)
        linear = isinstance(cell, MinGRUCell | LRUCell)
        if not (self.fast and usual and type(cell) in SCANNED) or (dropout is not None and linear):
            return None
        if _global_interceptor_stack:
            return None
        if isinstance(cell, LRUCell):
            return lambda steps: cell(carry, steps, whole=True, lengths=lengths)
        if self.is_initializing():
            cell(carry, steps[0])  # creates the parameters, with the keys that nn.RNN would use
        params = nn.meta.unbox(cell.variables.get("params", {}))
        weights = join_weights(cell, params, steps.shape[-1])
        if weights is None:
            return None  # Flax raises its own error
        dtype = canonicalize_dtype(steps, *weights, dtype=cell.dtype)
        if carry.dtype != dtype:
            return None  # the type of the carry changes, which Flax handles
        weights = [leaf.astype(dtype) for leaf in weights]
        scan = choose_scan(cell, self.unroll, dropout)
        return lambda steps: scan(steps.astype(dtype), carry, *weights, lengths=lengths)

    def _cell_scan(
        self,
        carry: chex.ArrayTree,
        lengths: Lengths | None,
        dropout: State | None,
        steps: Steps,
    ) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        """Return the last carry and all outputs of any cell, whose carry stays where invalid."""
        if dropout is not None and not isinstance(self.cell, nn.LSTMCell | nn.OptimizedLSTMCell):
            raise ValueError(
                "recurrent dropout needs cell simple or gru, with the fast recurrence, or lstm"
            )

        def step(
            cell: nn.RNNCellBase, carry: chex.ArrayTree, inputs: chex.ArrayTree
        ) -> tuple[chex.ArrayTree, chex.ArrayTree]:
            steps, valid = inputs
            read = carry if dropout is None else (carry[0], carry[1] * dropout)
            new, outputs = cell(read, steps)
            return jax.tree.map(partial(where_valid, valid), new, carry), outputs

        steps, valid = mask_steps(steps, lengths)
        options = {name: getattr(self, name) for name in OPTIONS}
        scan = nn.scan(step, unroll=steps_at_once(self.unroll, steps), **options)
        return scan(self.cell, carry, (steps, valid))
