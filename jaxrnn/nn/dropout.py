"""Dropout with a key for each example, so that it doesn't depend on how devices share a batch."""

import jax
from jaxtyping import Array, Float, Key


def drop(
    array: Float[Array, "batch ..."], rate: float, keys: Key[Array, "batch"] | None, index: int
) -> Float[Array, "batch ..."]:
    r"""Drop a fraction ``rate`` of the units and scale up the others; without keys, do nothing.

    .. math:: x \cdot b / (1 - \mathrm{rate}), \quad b \sim \mathrm{Bernoulli}(1 - \mathrm{rate})

    ``index`` is that of this dropout in the network; each draws its own mask.

    References:
      N. Srivastava and others, "Dropout: a simple way to prevent neural networks from overfitting"
      (2014).
    """
    if keys is None or not rate:
        return array

    def draw_mask(key: Key[Array, ""]) -> Float[Array, "..."]:
        kept = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - rate, array.shape[1:])
        return kept.astype(array.dtype) / (1 - rate)

    return array * jax.vmap(draw_mask)(keys)
