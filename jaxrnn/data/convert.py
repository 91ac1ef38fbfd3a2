"""Conversion of arrays for a :class:`jaxrnn.Split`, and their interpretation by ``from_arrays``."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.files import first_line


def convert(name: str, value: Any) -> Any:
    """Convert a field of a split to an array that JAX accepts, without loss.

    Labels, lengths and tokens (inputs of two axes) become integers, other inputs and targets
    floats; uint8 inputs, which are pixels, and values that aren't arrays are returned unchanged.

    Raises:
      ValueError: the value can't be converted without loss.
    """
    is_array = isinstance(value, list | tuple) or hasattr(value, "__array__")
    if isinstance(value, jax.core.Tracer) or not is_array:
        return value
    array = value if isinstance(value, jax.Array) else _to_numpy(name, value)
    if name == "inputs" and array.dtype == np.uint8:
        return array
    tokens = name == "inputs" and array.ndim == 2 and jnp.issubdtype(array.dtype, jnp.integer)
    integral = tokens or name in ("labels", "lengths")
    overflows = array.dtype in (np.int64, np.uint64, np.uint32)  # silently, in JAX
    if not overflows and jnp.issubdtype(array.dtype, jnp.integer if integral else jnp.floating):
        return array
    array = np.asarray(array)
    if integral and array.dtype.kind == "f" and not is_whole(array):
        return array  # which the split refuses
    converted = array.astype(np.int32 if integral else np.float32)
    if not (converted == array).all():
        raise ValueError(f"{name} of {array.dtype} do not fit in {converted.dtype.name}")
    return converted


def _to_numpy(name: str, value: Any) -> np.ndarray:
    """Convert to a numpy array of numbers, without a copy where possible."""
    value = value.detach() if hasattr(value, "detach") else value  # a torch tensor
    check_unmasked(name, value)
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
        array = np.array(array.tolist()) if array.dtype.kind == "O" else array
    except (TypeError, ValueError, RuntimeError) as error:
        hint = "Split.from_arrays pads sequences of different lengths"
        reason = f"{name} cannot be read as one array: {first_line(error)}"
        raise ValueError(f"{reason}; {hint}") from error
    if array.dtype.kind in "OcmMSUV":
        hint = "; Split.from_arrays reads names of classes" if array.dtype.kind in "SU" else ""
        raise ValueError(f"{name} must be numbers; got {array.dtype}{hint}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_unmasked(name: str, value: Any) -> None:
    """Raise ``ValueError`` for a masked array, whose hidden values NumPy would return."""
    if count := np.ma.count_masked(value) if np.ma.is_masked(value) else 0:
        raise ValueError(f"{name} must have no masked values; got {count}")


def is_whole(array: np.ndarray) -> bool:
    """Return whether all values are integers, or numbers equal to integers."""
    if jnp.issubdtype(array.dtype, jnp.floating):
        return bool((np.isfinite(array) & (array == np.round(array))).all())
    return array.dtype.kind in "biu"


def as_column(value: Any, time: tuple[int, ...] = ()) -> Any:
    """Squeeze (N, 1) labels or lengths to (N,), unless the inputs have a single time step."""
    return value[:, 0] if np.shape(value)[1:] == (1,) != time else value


def as_sequences(
    images: np.ndarray, rows: int | None = None, *, permute: bool | int = False
) -> np.ndarray:
    """Read images as sequences: (N, height, width[, channels]) → (N, time, features).

    Args:
      images: at least (N, time); trailing axes are flattened into features.
      rows: number of time steps to cut each image into, in reading order; its height by default.
      permute: seed of a permutation of the numbers of every image, applied first; True for 0.

    Raises:
      ValueError: an image can't be divided into ``rows`` equal parts.

    References:
      Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
      rectified linear units" (2015), for the permuted task.

    >>> as_sequences(np.zeros((2, 28, 28, 1)), rows=784).shape
    (2, 784, 1)
    """
    size = math.prod(images.shape[1:])
    rows = images.shape[1] if rows is None else rows
    if rows < 1 or size % rows:
        raise ValueError(f"an image of {size} numbers cannot be divided into {rows} equal rows")
    if permute is not False:
        order = pixel_order(size, 0 if permute is True else permute)
        images = images.reshape(len(images), size)[:, order]
    return images.reshape(len(images), rows, size // rows)


def pixel_order(size: int, seed: int) -> np.ndarray:
    """Return the permutation that :func:`as_sequences` applies to the flattened image."""
    # RandomState, whose numbers never change between versions
    return np.random.RandomState(seed).permutation(size)


def channels_last(images: np.ndarray) -> np.ndarray:
    """Move the channels of (N, channels, height, width) images to the last axis."""
    first = images.shape[1] in (1, 3, 4) and images.shape[3] not in (1, 3, 4)
    return np.moveaxis(images, 1, 3) if first else images


def pad(sequences: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Pad sequences of different lengths with zeros; also return their lengths."""
    arrays = [_to_numpy("inputs", sequence) for sequence in sequences]
    arrays = [array[:, None] if array.ndim == 1 else array for array in arrays]
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"sequences must have the same features; got shapes {sorted(shapes)}")
    lengths = np.array([len(array) for array in arrays], np.int32)
    padded = np.zeros((len(arrays), lengths.max(), *shapes.pop()), np.result_type(*arrays))
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def read_inputs(
    inputs: Any, rows: int | None, scale: float | None, notes: list[str]
) -> tuple[Any, Any, int]:
    """Interpret inputs for ``Split.from_arrays``; also return lengths and channels."""
    lengths, channels = None, 1
    if isinstance(inputs, Sequence) and len({np.shape(sequence)[:1] for sequence in inputs}) > 1:
        if rows is not None:
            raise ValueError("rows requires sequences of equal length")
        inputs, lengths = pad(inputs)
        notes.append(f"sequences of {lengths.min()} to {lengths.max()} steps were padded")
    array = np.asarray(convert("inputs", inputs))
    if array.ndim == 4:
        moved = channels_last(array)
        if moved is not array:
            notes.append(f"the second axis of inputs {array.shape} was read as channels")
        array, channels = as_sequences(moved, rows), moved.shape[3]
    elif rows is not None:
        array = as_sequences(array, rows)
    elif array.ndim == 2:
        size, side = array.shape[1], math.isqrt(array.shape[1])
        is_square = side * side == size and side >= 7
        is_images = is_square and array.dtype == np.uint8
        what = f"images of {side} rows" if is_images else f"sequences of {size} numbers"
        hint = f"; rows={side} reads images" if is_square and not is_images else ""
        notes.append(f"inputs {array.shape} were read as {what}{hint}")
        array = as_sequences(array, side if is_images else size)
    if scale is not None:
        return array.astype(np.float32) / np.float32(scale), lengths, channels
    least, most = (array.min(), array.max()) if array.size else (0, 255)
    if array.dtype == np.uint8 and 0 < most < 128:
        notes.append(
            f"uint8 inputs were read as pixels from 0 to 255, but the largest is {most}; "
            f"give scale={most} if that is white"
        )
    elif array.dtype != np.uint8 and 128 <= most <= 255 and least >= 0 and is_whole(array):
        notes.append(
            f"inputs from {least:g} to {most:g} were not scaled; give scale=255 if they are pixels"
        )
    return array, lengths, channels


def read_labels(
    labels: Any, names: tuple[str, ...], shape: tuple[int, ...], one_hot: bool | None,
    notes: list[str],
) -> tuple[Any, tuple[str, ...]]:  # fmt: skip
    """Interpret labels for ``Split.from_arrays``; also return the class names."""
    check_unmasked("labels", labels)
    array = np.asarray(labels) if hasattr(labels, "dtype") else np.asarray(labels, object)
    if array.dtype.kind == "O":
        for index, label in enumerate(array.flat):
            is_known = isinstance(label, str | bytes | numbers.Real) and label == label
            if not is_known or isinstance(label, str) != isinstance(array.flat[0], str):
                expected = "labels must be all strings or all integers"
                raise ValueError(f"{expected}; label {index} is {label!r}")
        array = np.array(array.tolist())
    if array.dtype.kind in "SU":
        array = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        words, indices = np.unique(array, return_inverse=True)
        found = words.tolist()
        if not names:
            names, what = tuple(found), f"names of {len(found)} classes"
            notes.append(f"labels were read as {what}, in alphabetical order")
        if unknown := [word for word in found if word not in names]:
            raise ValueError(f"labels that are not among the class names: {unknown}")
        places = np.array([names.index(word) for word in found], np.int32)
        return places[indices].reshape(array.shape), names
    array = np.asarray(as_column(convert("labels", array), shape[1:2]))
    is_steps = array.shape == shape[:2]
    is_binary = array.ndim > 1 and ((array == 0) | (array == 1)).all()
    is_one_hot = is_binary and (array.sum(-1) == 1).all()
    if is_one_hot and is_steps and one_hot is None and array.ndim == 2 and shape[1] > 1:
        raise ValueError(
            f"labels {array.shape} may be one-hot rows or one label for each time step; give "
            "one_hot=True or one_hot=False"
        )
    if one_hot or (array.ndim > 1 and not is_steps):
        if not is_one_hot:
            raise ValueError(f"labels {array.shape} are neither indices nor one-hot")
        notes.append(f"labels were read as one-hot rows of {array.shape[-1]} classes")
        array = array.argmax(-1).astype(np.int32)
    least, most = (array.min(), array.max()) if array.size else (0, 0)
    if names and most >= len(names):
        limit = f"between 0 and {len(names) - 1}, for {len(names)} class names"
        raise ValueError(f"labels must be {limit}; got {least} to {most}")
    if not names and least >= 1:
        raise ValueError(f"labels must start at 0; got {least} to {most}; subtract {least}")
    return array, names


def read_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert a mask (N, time), true at valid time steps, to lengths."""
    array = np.asarray(mask).astype(bool)
    if array.shape != shape[:2]:
        raise ValueError(f"mask must be (N, time), {shape[:2]}; got shape {array.shape}")
    lengths = array.sum(1).astype(np.int32)
    if (array != (np.arange(array.shape[1]) < lengths[:, None])).any():
        raise ValueError("mask must be true for the first time steps of each sequence only")
    return lengths
