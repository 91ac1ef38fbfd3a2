"""evaluate: exact sums over a split."""

from functools import partial

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from jaxrnn.data import Split, take
from jaxrnn.training import Metrics, batch_metrics


@partial(jax.jit, static_argnames="batch_size")
def evaluate(state: TrainState, split: Split, *, batch_size: int = 1000) -> Metrics:
    """Cross entropy and accuracy of a state over a whole split, as one XLA program.

    Pure. Every example counts exactly once, whether or not ``batch_size`` divides their number.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      split: at least one example.
      batch_size: examples at a time; it bounds memory and does not change the result.

    Returns:
      The :class:`Metrics` of all examples.

    Raises:
      ValueError: an empty split, or a ``batch_size`` below 1.

    >>> import optax
    >>> from jaxrnn import RNNClassifier, create_train_state, load
    >>> test = load("mnist", split="test[:50]")
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNClassifier(), optax.adam(1e-3), test.inputs
    ... )
    >>> int(evaluate(state, test, batch_size=32).count)
    50
    """
    if batch_size < 1 or not len(split):
        raise ValueError(f"cannot evaluate {len(split)} examples in batches of {batch_size}")

    def measure(indices: jax.Array) -> Metrics:
        return batch_metrics(state, state.params, take(split, indices))

    order = jnp.arange(len(split))
    whole = len(split) // batch_size * batch_size
    metrics = jax.lax.map(measure, order[:whole].reshape(-1, batch_size))
    metrics = jax.tree.map(lambda sums: sums.sum(0), metrics)
    if whole < len(split):
        metrics += measure(order[whole:])
    return metrics
