"""Dropout with a key for each example, so that it doesn't depend on how devices share a batch."""

from typing import Any

import jax


def dropout_mask(
    rate: float, keys: jax.Array | None, place: int, shape: tuple[int, ...], dtype: Any
) -> jax.Array | None:
    r"""Factors that drop a fraction of the units and scale up the others; None for no dropout.

    .. math:: m = b / (1 - \mathrm{rate}), \quad b \sim \mathrm{Bernoulli}(1 - \mathrm{rate})

    Args:
      rate: the fraction that is dropped.
      keys: (batch,) keys, one for each example; None for no dropout.
      place: index of this dropout in the network; each draws its own mask.
      shape: shape of one example.
      dtype: dtype of the factors.

    Returns:
      (batch, \*shape) factors.

    Source: N. Srivastava and others, "Dropout: a simple way to prevent neural networks from
    overfitting" (2014).
    """
    if keys is None or not rate:
        return None

    def of_one(key: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, shape)
        return kept.astype(dtype) / (1 - rate)

    return jax.vmap(of_one)(keys)


def drop(array: jax.Array, rate: float, keys: jax.Array | None, place: int) -> jax.Array:
    """Apply dropout to a (batch, …) array; see :func:`dropout_mask`."""
    mask = dropout_mask(rate, keys, place, array.shape[1:], array.dtype)
    return array if mask is None else array * mask
