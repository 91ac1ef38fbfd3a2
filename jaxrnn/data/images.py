"""Source and load: datasets of labelled images, read as sequences."""

import contextlib
import difflib
import math
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from jaxrnn.data.convert import as_sequences
from jaxrnn.data.readers import LabelledImages, damaged, find_builder, prepare
from jaxrnn.data.splits import Batch, Split

_READ_AT_ONCE = 4096  # examples; bounds what is held besides the arrays themselves


_Path = str | os.PathLike[str] | None
_places: ContextVar[tuple[_Path, _Path]] = ContextVar("places", default=(None, None))


@contextlib.contextmanager
def default_places(data_dir: _Path, archives: _Path) -> Iterator[None]:
    """Set the default ``data_dir`` and ``archives`` of :class:`Source` and :func:`load` inside."""
    token = _places.set((data_dir, archives))
    try:
        yield
    finally:
        _places.reset(token)


class Source:
    """Labelled images on disk, read as sequences in any order, for :func:`jaxrnn.stream`.

    Opening a source prepares the dataset if necessary, but reads no examples; it keeps an index of
    a few bytes per example in memory. A source can be pickled; unpickling opens it again.

    Args:
      name, split, data_dir, archives, rows, permute: see :func:`load`.

    Attributes:
      class_names: the name of each class, in order.
      channels: numbers per pixel, side by side in ``features``.

    Raises:
      ValueError, FileNotFoundError, ImportError, OSError: see :func:`load`.

    >>> source = Source("mnist", split="train")
    >>> len(source), source.read([0, 59_999])["labels"].tolist()
    (60000, [5, 8])
    """

    def __init__(
        self,
        name: str = "mnist",
        *,
        split: str,
        data_dir: _Path = None,
        archives: _Path = None,
        rows: int | None = None,
        permute: bool | int = False,
    ) -> None:
        data_dir, archives = data_dir or _places.get()[0], archives or _places.get()[1]
        self._name, self._rows, self._permute = name, rows, permute
        self._reopen = partial(
            Source, name, split=split, data_dir=data_dir, archives=archives, rows=rows,
            permute=permute,
        )  # fmt: skip
        builder = self._builder = find_builder(name, data_dir=data_dir, archives=archives)
        features = builder.info.features
        match builder.info.supervised_keys:
            case (str(input_key), str(label_key)) if len(
                features[input_key].shape
            ) >= 2 and isinstance(features[label_key], tfds.features.ClassLabel):
                self.class_names = tuple(features[label_key].names)
                self._keys = input_key, label_key
                self.channels = math.prod(features[input_key].shape[2:] or (1,))
            case _:
                raise ValueError(f"{name!r} is not a dataset of labelled images")
        prepare(builder)

        size = _size_of(builder, name, split)
        if size < 1:
            raise ValueError(f"split {split!r} of {name!r} has no examples")
        with self._reading():
            self._examples = (
                builder.records(split)
                if isinstance(builder, LabelledImages)
                else builder.as_data_source(split)
            )

    def __len__(self) -> int:
        return len(self._examples)

    def __reduce__(self) -> Any:
        return self._reopen, ()

    def load(self) -> Split:
        """Read all examples into memory, in file order."""
        batch = self.read(range(len(self)))
        return Split(**batch, class_names=self.class_names, channels=self.channels)

    def read(self, indices: Sequence[int] | np.ndarray | range) -> Batch:
        """Read the examples at these positions, one or more, in this order.

        Returns:
          ``inputs`` (N, time, features) uint8 and ``labels`` (N,) int32, numpy arrays.

        Raises:
          ValueError: the prepared data is damaged, or its images differ in size.
        """
        places = np.asarray(indices)
        with self._reading():
            if isinstance(self._builder, LabelledImages):
                images, labels = self._builder.parse(self._examples.read(places))
            else:
                images, labels = _read(self._examples, places.tolist(), *self._keys)
        return {"inputs": as_sequences(images, self._rows, permute=self._permute), "labels": labels}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except NotImplementedError as error:
            raise ValueError(
                f"{self._name!r} is prepared in {self._builder.data_dir} in a format without "
                "random access; choose another data_dir"
            ) from error
        except (OSError, RuntimeError, IndexError, DecodeError) as error:
            raise damaged(self._builder, error) from error


def load(
    name: str = "mnist",
    *,
    split: str,
    data_dir: _Path = None,
    archives: _Path = None,
    rows: int | None = None,
    permute: bool | int = False,
) -> Split:
    """Load one split of a dataset into memory, in file order, preparing the dataset if necessary.

    MNIST is bundled and needs no network. An image is read as a sequence, one row of pixels per
    time step.

    Args:
      name: ``mnist``, ``fashion_mnist``, ``kmnist``, or any tfds dataset of labelled images;
        ``idx`` for the IDX files in ``archives``, whatever naming scheme they follow; a
        ``.npz`` file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras stores data
        sets; or a directory, with a slash in its name, of images in one directory for each class,
        below ``train`` and ``test`` or without these.
      split: a tfds split string, such as ``"train[:48000]"``, ``"train[80%:]"`` or ``"test"``.
      data_dir: directory of prepared datasets; tfds's own by default.
      archives: directory with the IDX files of ``idx`` or of a dataset of the MNIST family,
        compressed or not.
      rows: number of time steps to cut each image into, in reading order; by default its rows.
      permute: shuffle the pixels of all images by one fixed permutation: that of this seed, 0 for
        True.

    Returns:
      A :class:`Split` of numpy arrays: ``inputs`` (N, time, features) uint8, ``labels`` (N,) int32.

    Raises:
      ValueError: an unknown dataset or split, an empty split, examples that are not labelled images
        of one size, or ``rows`` that don't divide them.
      FileNotFoundError, ImportError, OSError: see :func:`jaxrnn.data.readers.find_builder` and
        :func:`jaxrnn.data.readers.prepare`.

    >>> digits = load("mnist", split="train[:5]")
    >>> digits.inputs.shape, digits.labels.tolist()
    ((5, 28, 28), [5, 0, 4, 1, 9])
    """
    source = Source(
        name, split=split, data_dir=data_dir, archives=archives, rows=rows, permute=permute
    )
    return source.load()


def _size_of(builder: Any, name: str, split: str) -> int:
    """The number of examples of a split, whose name may be wrong."""
    try:
        return int(builder.info.splits[split].num_examples)
    except (AssertionError, KeyError, ValueError) as error:
        known = list(builder.info.splits)
        close = difflib.get_close_matches(split.partition("[")[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close and close[0] not in split else ""
        reason = str(error).splitlines()[0]
        raise ValueError(f"split {split!r} of {name!r}: {reason}{hint}") from error


def _read(
    source: Any, places: Sequence[int], input_key: str, label_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, height, width, …) and labels (N,) int32 from a tfds data source."""
    first = source[places[0]][input_key]
    images = np.empty((len(places), *first.shape), first.dtype)
    labels = np.empty(len(places), np.int32)
    for start in range(0, len(places), _READ_AT_ONCE):
        some = places[start : start + _READ_AT_ONCE]
        for row, example in enumerate(source.__getitems__(some), start):
            if example[input_key].shape != first.shape:
                raise ValueError(
                    f"images differ in size: {first.shape} and {example[input_key].shape}"
                )
            images[row] = example[input_key]
            labels[row] = example[label_key]
    return images, labels
