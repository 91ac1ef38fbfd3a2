"""Conversion of arrays for a :class:`jaxrnn.Split`, and their interpretation by ``from_arrays``."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_KINDS = {"inputs": np.float32, "labels": np.int32, "lengths": np.int32, "targets": np.float32}


def convert(name: str, value: Any) -> Any:
    """Turn a field of a split into an array that JAX takes, if nothing is lost.

    Lists, tuples, torch tensors, pandas frames and series, objects that are numbers, booleans,
    other byte orders and other types of numbers are converted: labels and lengths to integers,
    inputs and targets to floats; inputs that are integers of two axes are tokens and remain
    integers. Arrays that JAX takes as they are, and values that aren't arrays, such as None or a
    ``jax.ShapeDtypeStruct``, are returned unchanged.

    Args:
      name: ``inputs``, ``labels``, ``lengths`` or ``targets``.
      value: what was given.

    Raises:
      ValueError: it can't be converted, or not without loss.
    """
    integral = name in ("labels", "lengths")
    if isinstance(value, jax.core.Tracer | np.generic) or not _is_arraylike(value):
        return value
    if isinstance(value, jax.Array):
        fits = jnp.issubdtype(value.dtype, jnp.integer if integral else jnp.floating)
        if fits or (name == "inputs" and (value.dtype == jnp.uint8 or _are_tokens(value))):
            return value
    array = _to_numpy(name, value)
    integral |= name == "inputs" and _are_tokens(array)
    kind = array.dtype.kind
    if kind not in "biuf" or (name == "lengths" and kind == "b"):
        return array  # types of machine learning, such as bfloat16; or to be refused
    if name == "inputs" and array.dtype == np.uint8:
        return array
    if kind == "f" and not (integral and _is_whole(array)):
        return array
    if kind in "iu" and integral and array.dtype.itemsize < 8 and array.dtype != np.uint32:
        return array
    converted = array.astype(np.int32 if integral else _KINDS[name])
    if not (converted == array).all():
        raise ValueError(f"{name} of {array.dtype} do not fit in {converted.dtype.name}")
    return converted


def _are_tokens(array: Any) -> bool:
    return array.ndim == 2 and jnp.issubdtype(array.dtype, jnp.integer)


def _is_arraylike(value: Any) -> bool:
    return isinstance(value, list | tuple) or hasattr(value, "__array__")


def _to_numpy(name: str, value: Any) -> np.ndarray:
    """Convert to a numpy array of numbers, without a copy where possible."""
    value = value.detach() if hasattr(value, "detach") else value  # of torch
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
        if array.dtype.kind == "O":
            array = np.array(array.tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name} cannot be read as one array: {reason}; Split.from_arrays pads sequences of "
            "different lengths"
        ) from error
    if array.dtype.kind in "SU":
        raise ValueError(
            f"{name} are strings; Split.from_arrays turns the names of classes into labels"
        )
    if array.dtype.kind in "OcmM":
        raise ValueError(f"{name} must be numbers; got {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _is_whole(array: np.ndarray) -> bool:
    return bool((np.isfinite(array) & (array == np.round(array))).all())


def as_column(value: Any, time: int | None) -> Any:
    """(N, 1) labels or lengths as (N,), unless there is one for each of a single time step."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    return value[:, 0] if len(shape) == 2 and shape[1] == 1 and time != 1 else value


def as_sequences(
    images: np.ndarray, rows: int | None = None, *, permute: bool | int = False
) -> np.ndarray:
    """Read images as sequences: (N, height, width[, channels]) → (N, time, features).

    Args:
      images: at least (N, time); trailing axes are flattened into features.
      rows: number of time steps to cut each image into, in reading order; by default its rows.
      permute: shuffle the numbers of all images by one fixed permutation first: that of this seed,
        0 for True.

    Raises:
      ValueError: the numbers of an image don't divide into ``rows`` equal parts.

    Source of the permuted task: Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize
    recurrent networks of rectified linear units" (2015).

    >>> as_sequences(np.zeros((2, 28, 28, 1)), rows=784).shape
    (2, 784, 1)
    """
    size = int(np.prod(images.shape[1:]))
    rows = images.shape[1] if rows is None else rows
    if rows < 1 or size % rows:
        raise ValueError(f"an image of {size} numbers cannot be divided into {rows} equal rows")
    if permute is not False:  # RandomState, as its stream is guaranteed to stay the same
        seed = 0 if permute is True else permute
        order = np.random.RandomState(seed).permutation(size)
        images = images.reshape(len(images), size)[:, order]
    return images.reshape(len(images), rows, size // rows)


def read_inputs(inputs: Any, rows: int | None, notes: list[str]) -> tuple[Any, Any, int]:
    """Interpret inputs for :meth:`jaxrnn.Split.from_arrays`; returns lengths and channels too."""
    lengths, channels = None, 1
    if isinstance(inputs, Sequence) and len({np.shape(one)[:1] for one in inputs}) > 1:
        inputs, lengths = _padded(inputs)
        notes.append(
            f"sequences of {lengths.min()} to {lengths.max()} steps were padded with zeros"
        )
    array = convert("inputs", inputs)
    if array.ndim == 2 and rows is None:
        side = math.isqrt(array.shape[1])
        rows = side if side * side == array.shape[1] and side >= 7 else array.shape[1]
        what = f"images of {side} rows" if rows == side else f"sequences of {rows} numbers"
        notes.append(f"inputs {array.shape} were read as {what}")
    if array.ndim == 4:
        if array.shape[1] in (1, 3, 4) and array.shape[3] not in (1, 3, 4):
            notes.append(f"the second axis of inputs {array.shape} was read as channels")
            array = np.moveaxis(array, 1, 3)
        channels = array.shape[3]
    if array.ndim in (2, 4) or rows is not None:
        array = as_sequences(np.asarray(array), rows)
    if array.dtype != np.uint8 and array.size and _is_pixels(np.asarray(array)):
        notes.append("inputs of whole numbers from 0 to 255 were read as pixels, scaled to 0 … 1")
        array = np.asarray(array).astype(np.uint8)
    return array, lengths, channels


def _padded(sequences: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    arrays = [_to_numpy("inputs", one) for one in sequences]
    arrays = [one[:, None] if one.ndim == 1 else one for one in arrays]
    lengths = np.array([len(one) for one in arrays], np.int32)
    shapes = {one.shape[1:] for one in arrays}
    if len(shapes) > 1:
        raise ValueError(f"sequences must have the same features; got shapes {sorted(shapes)}")
    dtype = np.result_type(*arrays)
    padded = np.zeros((len(arrays), lengths.max(), *shapes.pop()), dtype)
    for row, one in zip(padded, arrays, strict=True):
        row[: len(one)] = one
    return padded, lengths


def _is_pixels(array: np.ndarray) -> bool:
    return bool(array.min() == 0 and array.max() == 255 and _is_whole(array))


def read_labels(
    labels: Any, names: Sequence[str], shape: tuple[int, ...], notes: list[str]
) -> tuple[Any, tuple[str, ...]]:
    """Interpret labels for :meth:`jaxrnn.Split.from_arrays`; returns the names of classes too.

    Args:
      labels: indices, names or one-hot rows.
      names: of the classes, in order; may be empty.
      shape: of the inputs, (N, time, features).
      notes: a description of each interpretation is appended.
    """
    names = tuple(map(str, names))
    array = np.asarray(labels)
    words = array.dtype.kind in "SU" or (array.dtype.kind == "O" and isinstance(array.flat[0], str))
    if words:
        array = array.astype(str)
        known = names or tuple(np.unique(array).tolist())
        unknown = set(np.unique(array).tolist()) - set(known)
        if unknown:
            raise ValueError(f"labels that are not among the class names: {sorted(unknown)}")
        if not names:
            notes.append(
                f"labels were read as names of {len(known)} classes, in alphabetical order"
            )
        index = {name: number for number, name in enumerate(known)}
        numbers = [index[word] for word in array.ravel().tolist()]
        return np.array(numbers, np.int32).reshape(array.shape), known
    array = as_column(convert("labels", labels), shape[1])
    if array.ndim > 1 and array.shape != shape[:2]:
        host = np.asarray(array)
        if not ((host == 0) | (host == 1)).all() or not (host.sum(-1) == 1).all():
            raise ValueError(f"labels {array.shape} are neither indices nor one-hot")
        notes.append(f"labels were read as one-hot rows of {array.shape[-1]} classes")
        array = host.argmax(-1).astype(np.int32)
    host = np.asarray(array)
    if host.dtype.kind in "iu" and host.size and host.min() >= 1:
        if names and host.max() == len(names):
            notes.append("labels were shifted to start at 0 instead of 1")
            array = host - 1
        elif not names:
            raise ValueError(
                f"labels run from {host.min()} to {host.max()}, not from 0; subtract 1, or give "
                f"class_names: {host.max()} of them if the first class is 1, more if it is 0"
            )
    return array, names


def read_mask(mask: Any) -> np.ndarray:
    """The lengths of a mask (N, time) that is true at valid time steps."""
    array = np.asarray(mask).astype(bool)
    if array.ndim != 2:
        raise ValueError(f"mask must be (N, time); got shape {array.shape}")
    lengths = array.sum(1).astype(np.int32)
    if (array != (np.arange(array.shape[1]) < lengths[:, None])).any():
        raise ValueError("mask must be true for the first time steps of each sequence only")
    return lengths
