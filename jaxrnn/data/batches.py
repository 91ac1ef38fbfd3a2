"""The order of the examples in an epoch, and its batches."""

from collections.abc import Iterator, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.splits import Batch, Split, as_split, take


def as_key(key: Any) -> jax.Array:
    """Convert an integer seed or a legacy ``PRNGKey`` to a typed PRNG key."""
    if isinstance(key, int | np.integer):
        return jax.random.key(key)
    if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(key)) if key.ndim else jax.random.key(key)
    return key


def epoch_indices(
    key: jax.Array, size: int, *, batch_size: int, drop_remainder: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Shuffle the examples for one epoch and cut them into batches.

    Args:
      key: PRNG key of this epoch; ``jax.random.fold_in(root_key, epoch)`` in :func:`jaxrnn.fit`.
      size, batch_size: number of examples in the split and in a batch.
      drop_remainder: drop the examples that don't fill a batch, different ones each epoch.

    Returns:
      Indices of the full batches, (size // batch_size, batch_size), and of the short last one,
      empty if nothing is left over or it is dropped.
    """
    order = jax.random.permutation(as_key(key), size)
    whole = size // batch_size * batch_size
    rest = order[whole:whole] if drop_remainder else order[whole:]
    return order[:whole].reshape(-1, batch_size), rest


def batches(
    split: Split, key: jax.Array, *, batch_size: int, drop_remainder: bool = False
) -> Iterator[Batch]:
    """Iterate over one epoch of batches, in the order of :func:`jaxrnn.train_epoch`.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples.

    >>> digits = Split(np.zeros((100, 28, 28), np.uint8), np.zeros(100, np.int32))
    >>> [len(batch["labels"]) for batch in batches(digits, jax.random.key(0), batch_size=40)]
    [40, 40, 20]
    """
    split = as_split(split)
    check_batch_size(batch_size, split)
    whole, rest = epoch_indices(
        key, len(split), batch_size=batch_size, drop_remainder=drop_remainder
    )
    for indices in (*np.asarray(whole), np.asarray(rest)):
        if len(indices):
            yield take(split, indices)


def check_batch_size(batch_size: int, split: Sized) -> None:
    """Raise ``ValueError`` unless ``split`` holds at least one batch of ``batch_size`` examples."""
    if not 1 <= batch_size <= len(split):
        raise ValueError(
            f"batch size must be between 1 and the {len(split)} examples of the split; "
            f"got {batch_size}"
        )
