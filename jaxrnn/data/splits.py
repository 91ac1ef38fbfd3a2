"""Split: labelled sequences in memory, and what is checked about them."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from jaxrnn.data.convert import as_column, convert, read_inputs, read_labels, read_mask

Batch = dict[str, Any]
"""``inputs`` (batch, time, features) or (batch, time) tokens; ``labels`` or ``targets``; and
optionally ``lengths``."""

_ARRAYS = ("inputs", "labels", "lengths", "targets")
log = logging.getLogger("jaxrnn")


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class Split:
    """Labelled sequences, a pytree: hand it to ``jax.device_put`` or to a jitted function.

    Arrays may be of any kind that holds numbers: lists, pandas, torch, any type and byte order.
    They are converted where nothing is lost; :meth:`from_arrays` goes further.

    Attributes:
      inputs: (N, time, features); uint8 pixels 0 … 255, or floats that are taken as they are. Or
        (N, time) integers: tokens.
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
    class_names: tuple[str, ...] = ()
    channels: int = 1

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            object.__setattr__(self, name, convert(name, getattr(self, name)))
        shape: tuple[int, ...] = getattr(self.inputs, "shape", ())
        for name in ("labels", "lengths"):
            column = as_column(getattr(self, name), shape[1] if len(shape) > 1 else None)
            object.__setattr__(self, name, column)
        object.__setattr__(self, "class_names", tuple(self.class_names))

    @classmethod
    def from_arrays(
        cls,
        inputs: Any,
        labels: Any = None,
        *,
        targets: Any = None,
        lengths: Any = None,
        mask: Any = None,
        class_names: Sequence[str] = (),
        rows: int | None = None,
    ) -> Self:
        """Build a split from arrays in common layouts, and log how they were interpreted.

        Args:
          inputs: (N, time, features); images (N, height, width, channels) or (N, channels, height,
            width), read row by row; (N, numbers), square images or else sequences of numbers; or a
            list of sequences of different lengths. Whole numbers from 0 to 255 are pixels.
          labels: class indices, from 0 or, if ``class_names`` says so, from 1; names of classes; or
            one-hot rows.
          targets: numbers to predict, instead of labels.
          lengths: number of valid time steps of each sequence.
          mask: (N, time), true for the valid time steps, instead of lengths.
          class_names: the name of each class, in order.
          rows: number of time steps to cut each example into, in reading order.

        Raises:
          ValueError: something can't be interpreted.

        >>> Split.from_arrays(np.zeros((5, 784)), list("abcab"), rows=28).labels.tolist()
        [0, 1, 2, 0, 1]
        """
        notes: list[str] = []
        array, padded, channels = read_inputs(inputs, rows, notes)
        if mask is not None and lengths is not None:
            raise ValueError("give lengths or a mask, not both")
        if mask is not None:
            lengths = read_mask(mask)
        names = tuple(map(str, class_names))
        if labels is not None:
            labels, names = read_labels(labels, names, array.shape, notes)
        if notes:
            log.warning("Split.from_arrays: %s", "; ".join(notes))
        lengths = padded if lengths is None else lengths
        split = cls(array, labels, lengths, targets, names, channels)
        check_examples(split)
        return split

    def __len__(self) -> int:
        return len(self.inputs)

    def replace(self, **changes: Any) -> Self:
        """A split with some fields changed."""
        return dataclasses.replace(self, **changes)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The arrays with their names, and the fields that are no arrays."""
        arrays = [(GetAttrKey(name), getattr(self, name)) for name in _ARRAYS]
        return arrays, (self.class_names, self.channels)

    @classmethod
    def tree_unflatten(cls, fields: Any, arrays: Any) -> Self:
        """A split of whatever JAX puts in place of the arrays, which is not converted."""
        split = object.__new__(cls)
        names = (*_ARRAYS, "class_names", "channels")
        for name, value in zip(names, (*arrays, *fields), strict=True):
            object.__setattr__(split, name, value)
        return split


def arrays_of(examples: Any) -> Batch:
    """The arrays of a split or batch, by name, without those that it doesn't have.

    Raises:
      ValueError: it is something else.
    """
    if not isinstance(examples, Split | dict):
        kind = "an array" if isinstance(examples, jax.Array) else type(examples).__name__
        raise ValueError(f"expected a Split, such as Split(inputs, labels); got {kind}")
    fields = examples if isinstance(examples, dict) else vars(examples)
    return {name: fields[name] for name in _ARRAYS if fields.get(name) is not None}


def take(split: Split, indices: jax.Array | np.ndarray) -> Batch:
    """The examples at ``indices``, as a batch."""
    return {name: array[indices] for name, array in arrays_of(split).items()}


def scale(inputs: jax.Array) -> jax.Array:
    """Scale uint8 pixels from 0 … 255 to float32 0 … 1; floats and tokens stay as they are."""
    pixels = inputs.dtype == jnp.uint8 and inputs.ndim != 2
    return inputs.astype(jnp.float32) / 255 if pixels else inputs


def zeros_like_one(inputs: Any) -> np.ndarray:
    """A batch of one example of the shape of these inputs, to initialize a network with."""
    shape = (1, *np.shape(inputs)[1:])
    return np.zeros(shape, np.int32 if len(shape) == 2 else np.float32)


def check_examples(examples: Split | Batch) -> None:
    """Raise ``ValueError`` unless the arrays of a split or batch fit each other.

    JAX clamps indices that are out of range instead of raising, so arrays of different lengths
    would give plausible, wrong numbers.
    """
    arrays = arrays_of(examples)
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    inputs = shapes["inputs"]
    allowed = {
        "inputs": len(inputs) in (2, 3),
        "labels": shapes.get("labels") in (inputs[:1], inputs[:2]),
        "lengths": shapes.get("lengths") == inputs[:1],
        "targets": shapes.get("targets", ())[:1] == inputs[:1]
        and len(shapes.get("targets", ())) < 4
        and (len(shapes.get("targets", ())) < 3 or shapes["targets"][:2] == inputs[:2]),
    }
    if not all(allowed[name] for name in shapes):
        raise ValueError(
            "expected inputs (N, time, features) or (N, time), labels (N,) or (N, time), lengths "
            "(N,), targets (N, width) or (N, time, width); got "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            + "; Split.from_arrays reads images, one-hot labels and masks"
        )
    dtypes = {name: jnp.result_type(array) for name, array in arrays.items()}
    integral = jnp.issubdtype(dtypes["inputs"], jnp.integer)
    if len(inputs) == 2 and not integral:
        raise ValueError(
            f"inputs of shape {inputs} must be integers, which are tokens; got {dtypes['inputs']}; "
            "numbers are (N, time, features)"
        )
    if len(inputs) == 3 and dtypes["inputs"] != jnp.uint8 and integral:
        raise ValueError(f"inputs must be uint8 pixels or floats; got {dtypes['inputs']}")
    for name, kind, words in (
        ("labels", jnp.integer, "integers; real numbers are targets"),
        ("lengths", jnp.integer, "integers"),
        ("targets", jnp.floating, "floats"),
    ):
        if name in dtypes and not jnp.issubdtype(dtypes[name], kind):
            raise ValueError(f"{name} must be {words}; got {dtypes[name]}")


def check_values(examples: Split | Batch, classes: int, vocabulary: int | None = None) -> None:
    """Raise ``ValueError`` for labels, lengths and tokens out of range, which JAX ignores.

    Args:
      examples: arrays on the host.
      classes: the outputs of the model; labels must be below.
      vocabulary: tokens must be below; None to leave them unchecked.
    """
    arrays = arrays_of(examples)
    if vocabulary is not None and np.ndim(arrays["inputs"]) == 2 and np.size(arrays["inputs"]):
        least, most = np.min(arrays["inputs"]), np.max(arrays["inputs"])
        if not 0 <= least <= most < vocabulary:
            raise ValueError(
                f"inputs (N, time) are tokens, which must be between 0 and {vocabulary - 1}; got "
                f"{least} to {most}; Split.from_arrays reads rows of pixels as images"
            )
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
