"""Random access to examples: of sources, splits, and datasets and loaders of other libraries."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from jaxrnn.data.convert import as_sequences, channels_last
from jaxrnn.data.splits import Batch, Split, arrays_of


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
      train: what to train on: a :class:`jaxrnn.Split`, or a :class:`jaxrnn.Source` or another
        :class:`Readable`, which can be streamed.
      evals: what to evaluate after every epoch, by name, in the order of the reports. The first one
        determines the best checkpoint.
      outputs: number of outputs of the network: classes, or numbers to predict.
      baselines: values to draw beside the curves, by metric and name, as in ``{"loss": {"always the
        mean": 0.1}}``.
      pixel_max: the number that became 255 when images were read; see :class:`jaxrnn.Source`.
    """

    train: Split | Readable
    evals: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pixel_max: int = 255


def readable(source: Any) -> Readable:
    """Return random access to the examples of a source; see :func:`jaxrnn.stream`."""
    if isinstance(source, Split):
        return jax.device_get(source)
    if hasattr(source, "read") and hasattr(source, "__len__"):
        return source
    source = getattr(source, "dataset", source)  # that of a DataLoader, without its order
    is_arrays = isinstance(source, tuple | dict | np.ndarray | jax.Array | str)
    if is_arrays or not (isinstance(source, Iterable) or hasattr(source, "__getitem__")):
        raise ValueError(
            f"a stream reads a Source, a Split or an iterable of (inputs, labels); got "
            f"{type(source).__name__}{'; Split(inputs, labels) holds arrays' if is_arrays else ''}"
        )
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _Examples(source)
    if not (examples := list(source)):
        raise ValueError("there is nothing to stream: the iterable is empty")
    return _join(examples, np.concatenate if np.ndim(_pair(examples[0])[1]) else np.stack)


@dataclass(frozen=True)
class _Examples:
    """A sequence of examples (inputs, label)."""

    examples: Any

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, indices: Any) -> Batch:
        return arrays_of(_join([self.examples[int(index)] for index in indices], np.stack))


def _join(examples: Iterable[Any], join: Callable[[Any], np.ndarray]) -> Split:
    """Join examples or batches; labels that are not whole numbers are targets."""
    inputs, labels = (join(arrays) for arrays in zip(*map(_pair, examples), strict=True))
    if inputs.ndim == 4:  # images, as torchvision has them
        inputs = as_sequences(channels_last(inputs))
    return Split(inputs, targets=labels) if labels.dtype.kind == "f" else Split(inputs, labels)


def _pair(example: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        inputs, labels = example
    except (TypeError, ValueError):
        raise ValueError(
            f"a stream expects examples (inputs, labels); got {type(example).__name__}"
        ) from None
    return np.asarray(inputs), np.asarray(labels)
