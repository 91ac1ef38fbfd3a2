"""Random access to examples: of sources, splits, and datasets and loaders of other libraries."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from jaxrnn.data.augment import ImageLayout
from jaxrnn.data.convert import as_sequences, channels_last
from jaxrnn.data.splits import Batch, Split, arrays_of, as_split


class Readable(Protocol):
    """What can be streamed: :class:`jaxrnn.Source`, or anything with the same two methods."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def read(self, indices: Any) -> Batch:
        """Read the examples at these positions, in this order."""


@dataclass(frozen=True)
class Datasets:
    """The data of an experiment, returned by ``build()`` of its data group.

    Attributes:
      train: what to train on: a :class:`jaxrnn.Split` or, to stream, another :class:`Readable`.
      evals: what to evaluate after every epoch, by name; the first determines the best checkpoint.
      outputs: number of outputs of the network: classes, or numbers to predict.
      baselines: values to draw beside the curves, by metric and name, as in ``{"loss": {"always the
        mean": 0.1}}``.
      layout: shape and pixel order of the images, a :class:`jaxrnn.data.ImageLayout`; by default,
        each time step is assumed to be one row of an image.
      pixel_max: the pixel value that was mapped to 255; see :class:`jaxrnn.Source`.
    """

    train: Split | Readable
    evals: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    layout: ImageLayout | None = None
    pixel_max: int = 255


def readable(source: Any) -> Readable:
    """Return random access to the examples of a source; see :func:`jaxrnn.stream`."""
    if isinstance(source, Split | tuple | dict):
        return jax.device_get(as_split(source))
    if hasattr(source, "read") and hasattr(source, "__len__"):
        return source
    indexed, kind = hasattr(source, "__getitem__"), type(source).__name__
    if hasattr(source, "dataset") and not indexed:
        raise ValueError(
            f"a {kind} chooses the order of its examples itself; stream its .dataset or, to read "
            "one pass into memory, iter(…) of it"
        )
    is_table = isinstance(source, str) or hasattr(source, "__array__")
    if is_table or not (indexed or isinstance(source, Iterable)):
        raise ValueError(
            "a stream reads a Source, a Split, arrays (inputs, labels), or a sequence or iterable "
            f"of examples (inputs, label); got {kind}"
        )
    if indexed and hasattr(source, "__len__"):
        if len(source) and _is_batch(first := _arrays_of(source[0])) and len(first["inputs"]) > 1:
            hint = "give iter(…), which is read into memory"
            raise ValueError(f"expected examples; the elements of the {kind} are batches: {hint}")
        return _Examples(source)
    if not (examples := list(source)):
        raise ValueError("there is nothing to stream: the iterable is empty")
    first = _arrays_of(examples[0])
    axes = 2 if first["inputs"].dtype.kind in "iu" else 3  # of batches of tokens, and of others
    return _join(examples, np.concatenate if _is_batch(first, axes) else np.stack)


@dataclass(frozen=True)
class _Examples:
    """A sequence of examples (inputs, label)."""

    examples: Any

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, indices: Any) -> Batch:
        return arrays_of(_join([self.examples[int(index)] for index in indices], np.stack))


def _is_batch(element: Batch, axes: int = 3) -> bool:
    rows = [np.shape(element[name])[:1] for name in ("labels", "targets") if name in element]
    return element["inputs"].ndim >= axes and rows == [element["inputs"].shape[:1]]


def _join(examples: Iterable[Any], join: Callable[[Any], np.ndarray]) -> Split:
    """Join examples or batches."""
    named = [_arrays_of(example) for example in examples]
    if odd := next((arrays for arrays in named if arrays.keys() != named[0].keys()), None):
        found = " and ".join(", ".join(arrays) for arrays in (named[0], odd))
        raise ValueError(f"examples of a stream must have the same arrays; got {found}")
    arrays: Any = {name: join([example[name] for example in named]) for name in named[0]}
    if arrays["inputs"].ndim == 4:  # images, as torchvision has them
        arrays["inputs"] = as_sequences(channels_last(arrays["inputs"]))
    return Split(**arrays)


def _arrays_of(example: Any) -> Batch:
    try:
        arrays = arrays_of(example)
        if getattr(arrays["inputs"], "mode", None) == "P":  # of Pillow
            raise ValueError("a picture with a palette has no pixels; give image.convert('RGB')")
        return {name: np.asarray(array) for name, array in arrays.items()}
    except ValueError as error:
        raise ValueError(f"examples of a stream: {error}") from error
