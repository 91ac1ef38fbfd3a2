"""Batches: their order in an epoch, validation of their values, and preparation for a network."""

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.splits import Batch, Split, arrays_of, as_split, check_examples, take

_TIMED = {"inputs": 2, "labels": 2, "targets": 3}  # axes of arrays that have time steps


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
    """Shuffle ``size`` examples for one epoch and cut them into batches.

    The PRNG key of an epoch is ``jax.random.fold_in(root_key, epoch)`` in :func:`jaxrnn.fit`.

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
    options: Any = {"batch_size": batch_size, "drop_remainder": drop_remainder}
    whole, rest = epoch_indices(key, len(split), **options)
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


def check_values(
    examples: Split | Batch,
    classes: int,
    vocabulary: int | None = None,
    places: Sequence[int] | np.ndarray = (),
) -> None:
    """Raise ``ValueError`` for NaN, infinity, and values out of range, which JAX doesn't report.

    Labels must be below ``classes``, the outputs of the model, and tokens below ``vocabulary``.
    Messages identify examples by ``places``, their positions in the source, or else by row.
    """
    arrays = arrays_of(examples)
    lengths, labels = arrays.get("lengths"), arrays.get("labels")
    time = np.shape(arrays["inputs"])[1]
    if vocabulary is not None and np.ndim(arrays["inputs"]) == 2:
        bound = f"{vocabulary - 1}, as they are tokens (Split.from_arrays reads rows of pixels)"
        _check_range("inputs (N, time)", arrays["inputs"], vocabulary - 1, bound)
    if lengths is not None:
        _check_range("lengths", lengths, time, f"the {time} time steps")
        if np.size(lengths) and not np.max(lengths):
            raise ValueError("lengths are all 0, so there is nothing to learn from")
    if labels is not None:
        if lengths is not None and np.ndim(labels) == 2:  # padding may hold anything
            labels = np.asarray(labels)[np.arange(time) < np.asarray(lengths)[:, None]]
        bound = f"{classes - 1}, as the model has {classes} outputs"
        _check_range("labels", labels, classes - 1, bound)
    for name in ("inputs", "targets"):
        if name in arrays and jnp.issubdtype(jnp.result_type(arrays[name]), jnp.floating):
            _check_finite(name, arrays[name], lengths, places)


def _check_range(name: str, values: Any, most: int, bound: str) -> None:
    if np.size(values) and not 0 <= np.min(values) <= np.max(values) <= most:
        found = f"{np.min(values)} to {np.max(values)}"
        raise ValueError(f"{name} must be between 0 and {bound}; got {found}")


def _check_finite(name: str, values: Any, lengths: Any, places: Sequence[int] | np.ndarray) -> None:
    """Raise ``ValueError`` for NaN or infinity, except in padding."""
    bad = ~np.isfinite(values)
    if lengths is not None and bad.ndim == 3:
        bad &= (np.arange(bad.shape[1]) < np.asarray(lengths)[:, None])[..., None]
    if bad.any():
        row, *others = index = tuple(np.argwhere(bad)[0].tolist())
        where = f"example {places[row] if len(places) else row}"
        for axis, place in zip(("time step", "column")[3 - bad.ndim :], others, strict=False):
            where += f", {axis} {place}"
        raise ValueError(f"{name} must be finite; got {np.asarray(values)[index]} in {where}")


def prepare(batch: Batch) -> Batch:
    """Check a batch, zero the padding of its sequences, and scale uint8 pixels to [0, 1].

    Every batch passes through here once; what follows relies on it.
    """
    batch = {name: jnp.asarray(array) for name, array in arrays_of(batch).items()}
    check_examples(batch)
    if "lengths" in batch:
        # Smaller types could not hold the number of time steps that padding adds, nor differences.
        batch["lengths"] = batch["lengths"].astype(jnp.int32)
        valid = valid_steps(batch)
        for name, axes in _TIMED.items():
            if name in batch and batch[name].ndim >= axes:
                mask = valid if batch[name].ndim == 2 else valid[..., None]
                batch[name] = jnp.where(mask, batch[name], 0)
    inputs = batch["inputs"]
    if inputs.dtype == jnp.uint8 and inputs.ndim == 3:
        batch["inputs"] = inputs.astype(jnp.float32) / 255
    return batch


def valid_steps(batch: Batch) -> jax.Array:
    """Return the mask of valid time steps, (batch, time) booleans."""
    time, lengths = jnp.shape(batch["inputs"])[1], jnp.asarray(batch["lengths"])
    return jnp.arange(time, dtype=lengths.dtype)[None] < lengths[:, None]
