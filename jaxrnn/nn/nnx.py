"""RNN: a drop-in ``flax.nnx.RNN`` that runs in the scans of :class:`jaxrnn.RNN`."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jaxtyping import Array, Float, Int

from jaxrnn.nn.scans import elman_scan
from jaxrnn.nn.sequences import options_of, scan_in_direction

__all__ = ["RNN"]

Rngs = nnx.Rngs | nnx.RngStream
PLAIN = {  # default attributes of layers, which compute a plain matrix product
    "precision": None,
    "dot_general": jax.lax.dot_general,
    "preferred_element_type": None,
    "promote_dtype": dtypes.promote_dtype,
}


class RNN(nnx.RNN):
    """A drop-in replacement for ``flax.nnx.RNN``, faster for ``flax.nnx.SimpleCell``.

    Use this one with modules of ``flax.nnx``, and :class:`jaxrnn.RNN` with those of ``flax.linen``.

    Constructor, call, parameters and, to float rounding, results are those of ``flax.nnx.RNN``.
    ``SimpleCell`` runs in :func:`jaxrnn.nn.elman_scan`. Everything else runs in ``flax.nnx.RNN``
    itself: subclasses, other cells (scans of this library were measured to be no faster for
    ``GRUCell`` and ``OptimizedLSTMCell``), non-default ``state_axes`` or ``broadcast_rngs``, and
    layers with a custom ``dot_general``, ``precision``, ``preferred_element_type`` or
    ``promote_dtype``.

    >>> cell = nnx.SimpleCell(in_features=3, hidden_features=4, rngs=nnx.Rngs(0))
    >>> RNN(cell)(jnp.zeros((2, 7, 3))).shape  # (batch, time, hidden)
    (2, 7, 4)
    """

    def __call__(
        self,
        inputs: Float[Array, "*batch_and_time features"],
        *,
        initial_carry: chex.ArrayTree | None = None,
        seq_lengths: Int[Array, "*batch"] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Rngs | None = None,
    ) -> chex.ArrayTree:
        """Apply the cell over time: the arguments and results are those of ``flax.nnx.RNN``."""
        options = options_of(self, return_carry, time_major, reverse, keep_order)
        flax_call = partial(super().__call__, inputs, seq_lengths=seq_lengths, **options)
        cell = self._fast_cell()
        if cell is None or inputs.ndim < 2 or not inputs.size:
            return flax_call(initial_carry=initial_carry, rngs=rngs)

        batch_axes = inputs.ndim - 2
        steps = jnp.moveaxis(inputs, 0 if options["time_major"] else batch_axes, 0)
        carry = initial_carry
        rngs = self.rngs if rngs is None else rngs
        # As in Flax, a call advances the random-number stream that it is given, even if unused.
        rngs = rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs
        if carry is None:
            carry = cell.initialize_carry(steps.shape[1:], rngs)
        parameters: Any = cell.dense_i.kernel, cell.dense_i.bias, cell.dense_h.kernel
        weights = [parameter[...] for parameter in parameters]
        dtype = dtypes.canonicalize_dtype(steps, *weights, dtype=cell.dtype)
        if getattr(carry, "dtype", None) != dtype:  # its type changes, which Flax handles
            return flax_call(initial_carry=carry, rngs=rngs)
        weights = [leaf.astype(dtype) for leaf in weights]
        scan = partial(elman_scan, activation=cell.activation_fn, residual=cell.residual)
        return scan_in_direction(
            lambda steps: scan(steps.astype(dtype), carry, *weights, unroll=self.unroll),
            steps,
            seq_lengths,
            batch_axes=batch_axes,
            select_last=True,
            **options,
        )

    def _fast_cell(self) -> nnx.SimpleCell | None:
        """Return the cell if it can run in a scan of jaxrnn: if all options are Flax's defaults."""
        cell = self.cell
        if type(cell) is not nnx.SimpleCell:
            return None
        usual = dict(self.state_axes) == {...: nnx.Carry} and self.broadcast_rngs is None
        plain = all(
            type(layer) is nnx.Linear
            and layer.dtype == cell.dtype
            and all(getattr(layer, name) is value for name, value in PLAIN.items())
            for layer in (cell.dense_i, cell.dense_h)
        )
        biased = cell.dense_i.bias is not None and cell.dense_h.bias is None
        return cell if usual and plain and biased else None
