"""Split and batches: labelled sequences in memory."""

from collections.abc import Iterator, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Batch = dict[str, Any]
"""``inputs`` (batch, time, features); ``labels`` or ``targets``; and optionally ``lengths``."""

_ARRAYS = ("inputs", "labels", "lengths", "targets")


@struct.dataclass
class Split:
    """Labelled sequences, a pytree: hand it to ``jax.device_put`` or to a jitted function.

    Attributes:
      inputs: (N, time, features); uint8 pixels 0 … 255, or floats that are taken as they are.
      labels: (N,) or, with one for each time step, (N, time) integers: class indices from 0.
      lengths: (N,) integers, the number of valid time steps of each sequence; None if all are.
      targets: (N, width) or (N, time, width) floats, instead of labels.
      class_names: the name of each class, in order; may be empty.
      channels: numbers per pixel, side by side in ``features``, if the inputs are images.
    """

    inputs: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray | None = None
    lengths: jax.Array | np.ndarray | None = None
    targets: jax.Array | np.ndarray | None = None
    class_names: tuple[str, ...] = struct.field(pytree_node=False, default=())
    channels: int = struct.field(pytree_node=False, default=1)

    def __len__(self) -> int:
        return len(self.inputs)


def arrays_of(examples: Split | Batch) -> Batch:
    """The arrays of a split or batch, by name, without those that it doesn't have."""
    fields = examples if isinstance(examples, dict) else vars(examples)
    return {name: fields[name] for name in _ARRAYS if fields.get(name) is not None}


def take(split: Split, indices: jax.Array | np.ndarray) -> Batch:
    """The examples at ``indices``, as a batch."""
    return {name: array[indices] for name, array in arrays_of(split).items()}


def scale(inputs: jax.Array) -> jax.Array:
    """Scale uint8 pixels from 0 … 255 to float32 0 … 1; floats stay as they are."""
    return inputs.astype(jnp.float32) / 255 if inputs.dtype == jnp.uint8 else inputs


def check_examples(examples: Split | Batch) -> None:
    """Raise ``ValueError`` unless the arrays of a split or batch fit each other.

    JAX clamps indices that are out of range instead of raising, so arrays of different lengths
    would give plausible, wrong numbers.
    """
    arrays = arrays_of(examples)
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    inputs = shapes["inputs"]
    allowed = {
        "inputs": len(inputs) == 3,
        "labels": shapes.get("labels") in (inputs[:1], inputs[:2]),
        "lengths": shapes.get("lengths") == inputs[:1],
        "targets": shapes.get("targets", ())[:1] == inputs[:1]
        and len(shapes.get("targets", ())) < 4
        and (len(shapes.get("targets", ())) < 3 or shapes["targets"][:2] == inputs[:2]),
    }
    if not all(allowed[name] for name in shapes):
        raise ValueError(
            "expected inputs (N, time, features), labels (N,) or (N, time), lengths (N,), targets "
            "(N, width) or (N, time, width); got "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        )
    dtypes = {name: jnp.result_type(array) for name, array in arrays.items()}
    if dtypes["inputs"] != jnp.uint8 and not jnp.issubdtype(dtypes["inputs"], jnp.floating):
        raise ValueError(f"inputs must be uint8 pixels or floats; got {dtypes['inputs']}")
    for name, kind, words in (
        ("labels", jnp.integer, "integers; real numbers are targets"),
        ("lengths", jnp.integer, "integers"),
        ("targets", jnp.floating, "floats"),
    ):
        if name in dtypes and not jnp.issubdtype(dtypes[name], kind):
            raise ValueError(f"{name} must be {words}; got {dtypes[name]}")


def check_values(examples: Split | Batch, classes: int) -> None:
    """Raise ``ValueError`` for labels and lengths that are out of range, which JAX ignores.

    Args:
      examples: arrays on the host.
      classes: the outputs of the model; labels must be below.
    """
    arrays = arrays_of(examples)
    time = np.shape(arrays["inputs"])[1]
    lengths = np.asarray(arrays["lengths"]) if "lengths" in arrays else None
    if lengths is not None and lengths.size and not 0 <= lengths.min() <= lengths.max() <= time:
        raise ValueError(
            f"lengths must be between 0 and the {time} time steps; "
            f"got {lengths.min()} to {lengths.max()}"
        )
    labels = np.asarray(arrays.get("labels", ()))
    if labels.ndim == 2 and lengths is not None:
        labels = labels[np.arange(time) < lengths[:, None]]  # padding may hold anything
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels must be between 0 and {classes - 1}, as the model has {classes} outputs; "
            f"got {labels.min()} to {labels.max()}"
        )


def epoch_indices(
    key: jax.Array, size: int, *, batch_size: int, drop_remainder: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Shuffle the examples for one epoch and cut them into batches.

    Args:
      key: of this epoch alone; ``jax.random.fold_in(root_key, epoch)`` in :func:`jaxrnn.fit`.
      size: examples in the split.
      batch_size: examples in a batch, at most ``size``.
      drop_remainder: leave out the examples that don't fill a batch, different ones each epoch.

    Returns:
      The whole batches, (size // batch_size, batch_size), and the short last one, (size %
      batch_size,), which is empty if nothing is left over or it is dropped.
    """
    order = jax.random.permutation(key, size)
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
    check_examples(split)
    check_batch_size(batch_size, split)
    whole, rest = epoch_indices(
        key, len(split), batch_size=batch_size, drop_remainder=drop_remainder
    )
    for indices in np.asarray(whole):
        yield take(split, indices)
    if len(rest):
        yield take(split, np.asarray(rest))


def check_batch_size(batch_size: int, split: Sized) -> None:
    """Raise ``ValueError`` unless ``split`` holds at least one batch of ``batch_size`` examples."""
    if not 1 <= batch_size <= len(split):
        raise ValueError(
            f"batch size must be between 1 and the {len(split)} examples of the split; "
            f"got {batch_size}"
        )
