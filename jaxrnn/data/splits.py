"""Labelled sequences in memory, and their validation."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
_SINGULAR = {"image": "inputs", **{name[:-1]: name for name in _ARRAYS}}  # as tfds names them
_DTYPES = {
    "labels": (jnp.integer, "integers; real numbers are targets"),
    "lengths": (jnp.integer, "integers"),
    "targets": (jnp.floating, "floats"),
}


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class Split:
    """Labelled sequences; a pytree, to pass to ``jax.device_put`` or a jitted function.

    Arrays may be lists, or of numpy, pandas or torch, of any numeric type and byte order; they are
    converted without loss. :meth:`from_arrays` accepts other layouts, too.

    Attributes:
      inputs: (N, time, features): uint8 pixels 0 … 255, or floats, which are not scaled; or tokens:
        (N, time) integers.
      labels: (N,) or, with one for each time step, (N, time) integers: class indices from 0.
      lengths: (N,) integers, the number of valid time steps of each sequence; None if all are.
      targets: (N, width) or (N, time, width) floats, instead of labels.
      class_names: the name of each class, in order; may be empty.
      channels: number of channels of a pixel, adjacent in ``features``, if the inputs are images.

    Raises:
      ValueError: an array can't be converted without loss, or the arrays don't fit each other.
    """

    inputs: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray | None = None
    lengths: jax.Array | np.ndarray | None = None
    targets: jax.Array | np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    channels: int = 1

    def __post_init__(self) -> None:
        fields = self.__dict__  # writable, although the dataclass is frozen
        fields |= {name: convert(name, fields[name]) for name in _ARRAYS}
        time = np.shape(self.inputs)[1:2]
        fields |= {name: as_column(fields[name], time) for name in ("labels", "lengths")}
        fields["class_names"] = names = tuple(self.class_names)
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"class names must be distinct; got {repeated[0]!r} twice")
        abstract = jax.core.Tracer | jax.ShapeDtypeStruct  # with other axes in transformations
        if not any(isinstance(array, abstract) for array in arrays_of(self).values()):
            check_examples(self)

    @classmethod
    def from_arrays(
        cls, inputs: Any, labels: Any = None, *, targets: Any = None, lengths: Any = None,
        mask: Any = None, class_names: Sequence[str] = (), rows: int | None = None,
        scale: float | None = None, one_hot: bool | None = None,
    ) -> Self:  # fmt: skip
        """Build a split from arrays in common layouts, and log how they were interpreted.

        Args:
          inputs: (N, time, features); images (N, height, width, channels) or (N, channels, height,
            width); (N, numbers), sequences of numbers or, of uint8, square images; or a list of
            sequences of different lengths.
          labels: class indices from 0, names of classes, or one-hot rows.
          targets: as in :class:`Split`.
          lengths: as in :class:`Split`.
          class_names: as in :class:`Split`.
          mask: (N, time), true for the valid time steps; instead of lengths.
          rows: number of time steps to cut each example into, in reading order.
          scale: number to divide inputs by; by default 255 for uint8 (pixels), else 1. Use the same
            for all splits of a dataset.
          one_hot: whether two-dimensional labels are one-hot rows (True) or one label for each
            time step (False); required only if they could be either.

        Raises:
          ValueError: something can't be interpreted.

        >>> Split.from_arrays(np.zeros((5, 784)), list("abcab"), rows=28).labels.tolist()
        [0, 1, 2, 0, 1]
        """
        notes: list[str] = []
        inputs, padded, channels = read_inputs(inputs, rows, scale, notes)
        if mask is not None:
            if lengths is not None:
                raise ValueError("give mask or lengths, not both")
            lengths = read_mask(mask, inputs.shape)
        names = tuple(map(str, class_names))
        if labels is not None:
            labels, names = read_labels(labels, names, inputs.shape, one_hot, notes)
        if notes:
            logging.getLogger("jaxrnn").warning("Split.from_arrays: %s", "; ".join(notes))
        return cls(inputs, labels, padded if lengths is None else lengths, targets, names, channels)

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the arrays with their names, types and shapes."""
        digest = hashlib.sha256()
        for name, value in arrays_of(self).items():
            array = np.ascontiguousarray(value)
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def read(self, indices: Any) -> Batch:
        """Return the examples at these positions, in this order."""
        return take(self, np.asarray(indices))

    def replace(self, **changes: Any) -> Self:
        """Return a split with some fields changed."""
        return dataclasses.replace(self, **changes)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Return the arrays with their names, and the other fields."""
        fields = self.class_names, self.channels
        return [(GetAttrKey(name), getattr(self, name)) for name in _ARRAYS], fields

    @classmethod
    def tree_unflatten(cls, fields: Any, arrays: Any) -> Self:
        """Build a split of whatever JAX puts in place of the arrays, without conversion."""
        split = object.__new__(cls)
        names = (*_ARRAYS, "class_names", "channels")
        split.__dict__.update(zip(names, (*arrays, *fields), strict=True))
        return split


def arrays_of(examples: Any) -> Batch:
    """Return the arrays of a split, of a dict or of a pair (inputs, labels), by name.

    In a pair, floating-point labels are targets.

    Raises:
      ValueError: the examples are of another type, or have no inputs.
    """
    fields: Any = vars(examples) if isinstance(examples, Split) else examples
    if hasattr(examples, "_asdict"):
        fields = examples._asdict()  # a named tuple, in any order
    names = list(fields) if isinstance(fields, Mapping) else []
    arrays = {_SINGULAR.get(name, name): fields[name] for name in names}
    if isinstance(examples, tuple | list) and len(examples) == 2 and "inputs" not in arrays:
        dtype = getattr(examples[1], "dtype", None) or np.asarray(examples[1]).dtype
        second = "targets" if jnp.issubdtype(dtype, jnp.floating) else "labels"
        arrays = {"inputs": examples[0], second: examples[1]}
    for name in ("mask", "seq_lengths", "weights", "sample_weight"):  # would change the results
        if arrays.get(name) is not None:
            raise ValueError(f"{name} is not supported; for padded sequences, give lengths (N,)")
    if "inputs" in arrays:
        return {name: arrays[name] for name in _ARRAYS if arrays.get(name) is not None}
    kind = "an array" if isinstance(examples, jax.Array) else type(examples).__name__
    of = f" of {', '.join(map(str, names))}" if names else ""
    raise ValueError(
        "expected a Split, a pair (inputs, labels), or a dict of inputs and labels, lengths or "
        f"targets; got {kind}{of}"
    )


def as_split(examples: Any) -> Split:
    """Return the examples as a split, unless they are one; see :func:`arrays_of`."""
    return examples if isinstance(examples, Split) else Split(**arrays_of(examples))


def take(split: Split | Batch, indices: jax.Array | np.ndarray) -> Batch:
    """Return the examples at ``indices``, as a batch."""
    return {name: array[indices] for name, array in arrays_of(split).items()}


def blank_example(inputs: Any) -> np.ndarray:
    """Return one example of zeros, shaped like those of ``inputs``, for tracing a network."""
    shape = (1, *np.shape(inputs)[1:])
    return np.zeros(shape, np.int32 if len(shape) == 2 else np.float32)


def check_examples(examples: Split | Batch) -> None:
    """Raise ``ValueError`` unless the arrays of a batch fit each other.

    JAX clamps indices that are out of range instead of raising, so arrays of different lengths
    would give plausible, wrong numbers.
    """
    arrays = arrays_of(examples)
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    inputs, targets = shapes.get("inputs", ()), shapes.get("targets", ())
    leading = inputs[:1], inputs[:2]  # of one for each example, or time step
    allowed = {
        "inputs": len(inputs) in (2, 3),
        "labels": shapes.get("labels") in leading,
        "lengths": shapes.get("lengths") == inputs[:1],
        "targets": targets == inputs[:1] or targets[:-1] in leading,
    }
    if not all(allowed[name] for name in ("inputs", *shapes)):
        raise ValueError(
            "expected inputs (N, time, features) or (N, time), labels (N,) or (N, time), lengths "
            "(N,), targets (N, width) or (N, time, width); got "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            + "; Split.from_arrays reads images, one-hot labels and masks"
        )
    dtypes = {name: jnp.result_type(array) for name, array in arrays.items()}
    integral = jnp.issubdtype(dtypes["inputs"], jnp.integer)
    if len(inputs) == 2 and not integral:
        got = f"got {dtypes['inputs']} of shape {inputs}; other numbers are (N, time, features)"
        raise ValueError(f"inputs (N, time) must be integer tokens; {got}")
    if len(inputs) == 3 and integral and dtypes["inputs"] != jnp.uint8:
        raise ValueError(f"inputs must be uint8 pixels or floats; got {dtypes['inputs']}")
    for name, (kind, description) in _DTYPES.items():
        if name in dtypes and not jnp.issubdtype(dtypes[name], kind):
            raise ValueError(f"{name} must be {description}; got {dtypes[name]}")
