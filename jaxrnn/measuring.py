"""measure: the outputs and the metrics of a state on one batch."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError

from jaxrnn.data.batching import mask_padding
from jaxrnn.data.splits import Batch, check_examples, scale
from jaxrnn.metrics import Metrics
from jaxrnn.state import TrainState


def measure(state: TrainState, batch: Batch, *, train: bool = False) -> Metrics:
    """The :class:`jaxrnn.Metrics` of a state on one batch, differentiable in ``state.params``.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      batch: see :func:`train_step`.
      train: see :meth:`jaxrnn.Task.measure`.

    Raises:
      ValueError: the arrays of the batch, or the outputs of the model, don't fit each other.
    """
    check_examples(batch)
    batch = mask_padding(batch)
    values = state.task.measure(compute_outputs(state, batch), batch, train=train)
    metrics = Metrics.of(values, state.task.weights(batch))
    if "lengths" not in batch:
        return metrics
    lengths = jnp.asarray(batch["lengths"])
    known = ((lengths >= 0) & (lengths <= jnp.shape(batch["inputs"])[1])).all()
    loss = jnp.where(known, metrics.sums["loss"], jnp.nan)
    return Metrics({**metrics.sums, "loss": loss}, metrics.weight)


def compute_outputs(state: TrainState, batch: Batch) -> jax.Array:
    """Apply the network to the ``inputs`` and ``lengths`` of a batch: (batch, [time,] width).

    Raises:
      ValueError: the network draws random numbers.
    """
    batch = mask_padding(batch)
    lengths = (jnp.asarray(batch["lengths"]),) if "lengths" in batch else ()
    inputs = scale(jnp.asarray(batch["inputs"]))
    try:
        return state.apply_fn({"params": _unboxed(state.params)}, inputs, *lengths)
    except InvalidRngError as error:
        raise ValueError(
            "the model draws random numbers, as dropout does, which is not supported; use a "
            "deterministic model"
        ) from error


def _unboxed(params: Any) -> Any:
    """Parameters out of the boxes of ``nn.with_partitioning``: every device has all of them."""

    def is_box(leaf: Any) -> bool:
        return isinstance(leaf, nn.Partitioned)

    return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, params, is_leaf=is_box)
