"""Metrics: sums and a weight, which add up over batches, devices and hosts."""

from collections.abc import Mapping

import chex
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Num, Shaped


@struct.dataclass
class Metrics:
    """Weighted sums over elements (examples or time steps), divided once, by :meth:`means`.

    The mean over a split is therefore the same for any batch size, number of devices or processes,
    and padding.

    Attributes:
      sums: for each metric, the sum of its values times their weights: int32 for metrics that count
        (booleans and integers), float32 for all others, whatever type the network computes in.
      weight: the sum of the weights; the int32 number of elements where every element counts once.

    >>> total = Metrics({"loss": 2.0, "accuracy": 3}, 4) + Metrics({"loss": 1.0, "accuracy": 1}, 2)
    >>> total.means()["loss"], round(total.means()["accuracy"], 4)
    (0.5, 0.6667)
    """

    sums: dict[str, chex.Numeric]
    weight: chex.Numeric

    @classmethod
    def zero(cls) -> "Metrics":
        """Return empty metrics, the start of a sum."""
        return cls({}, 0)

    @classmethod
    def of(
        cls,
        values: Mapping[str, Shaped[Array, "*elements"]],
        weights: Shaped[Array, "*elements"] | None = None,
    ) -> "Metrics":
        """Sum the values of each element.

        Args:
          values: for each metric, an array of one value per element, all of the same shape.
          weights: an array of that shape, boolean or numeric; by default every element counts once.
            Values of weight 0 don't matter, even if they are not finite.
        """
        size = np.int32(next(iter(values.values())).size)
        weight = size if weights is None else _sum(weights, None)
        return cls({name: _sum(value, weights) for name, value in values.items()}, weight)

    def __add__(self, other: "Metrics") -> "Metrics":
        names = {**self.sums, **other.sums}
        sums = {name: self.sums.get(name, 0) + other.sums.get(name, 0) for name in names}
        return Metrics(sums, self.weight + other.weight)

    def means(self) -> dict[str, chex.Numeric]:
        """Divide the sum of each metric by the weight."""
        return {name: value / self.weight for name, value in self.sums.items()}


def _sum(
    values: Shaped[Array, "*elements"], weights: Shaped[Array, "*elements"] | None
) -> Num[Array, ""]:
    arrays = [values] if weights is None else [values, weights]
    floats = any(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays)
    dtype = jnp.float32 if floats else jnp.int32
    values = values.astype(dtype)
    if weights is not None:
        weighted = values if weights.dtype == bool else values * weights.astype(dtype)
        values = jnp.where(weights if weights.dtype == bool else weights > 0, weighted, 0)
    return values.sum(dtype=dtype)


class NonFiniteLossError(ArithmeticError):
    """The loss, a parameter, or the metric that chooses the best epoch is not finite.

    Attributes:
      epoch: the first affected epoch.
      step: the first affected step of the epoch; None for a metric.
    """

    def __init__(self, message: str, epoch: int, step: int | None = None) -> None:
        super().__init__(message)
        self.epoch, self.step = epoch, step
