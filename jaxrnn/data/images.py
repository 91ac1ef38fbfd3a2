"""Labelled images as sequences, memory-mapped or loaded at once."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Lt
from PIL import ImageColor

from jaxrnn.data.augment import ImageLayout
from jaxrnn.data.convert import as_sequences
from jaxrnn.data.readable import Datasets
from jaxrnn.data.readers import read_split
from jaxrnn.data.splits import Batch, Split
from jaxrnn.groups import Count, Group

_Path = str | os.PathLike[str] | None
_directories: ContextVar[tuple[_Path, _Path]] = ContextVar("directories", default=(None, None))


@contextlib.contextmanager
def default_dirs(data_dir: _Path, archives: _Path) -> Iterator[None]:
    """Set the default ``data_dir`` and ``archives`` of :class:`Source` and :func:`load` inside."""
    token = _directories.set((data_dir, archives))
    try:
        yield
    finally:
        _directories.reset(token)


class Source:
    """Labelled images on disk, read as sequences in any order, for :func:`jaxrnn.stream`.

    Opening a source prepares the dataset if necessary and maps its arrays into memory. A source can
    be pickled; unpickling opens it again.

    Args:
      name: ``mnist``, ``fashion_mnist``, ``kmnist``, or any tfds dataset of labelled images;
        ``idx`` for the IDX files in ``archives``, under any common naming scheme; a ``.npz`` file
        as Keras stores datasets (``x_train``, ``y_train``, ``x_test``, ``y_test``); or the path,
        with a slash in it, of a directory that has one directory of images for each class,
        optionally below ``train``, ``validation`` and ``test``. Integers that are all below 128 in
        ``train``, and numbers from 0 to 1, are stretched to 0 … 255.
      split: a tfds split string, such as ``"train[:48000]"``, ``"train[80%:]"`` or ``"test"``. A
        sum of splits is copied into memory.
      data_dir: directory of prepared datasets; tfds's own by default.
      archives: directory with the IDX files of ``idx`` or of a dataset of the MNIST family,
        compressed or not.
      rows: number of time steps to cut each image into, in reading order; its height by default.
      permute: shuffle the pixels of every image by the same permutation, drawn from this seed;
        True stands for seed 0.
      background: color for transparent images in a directory; by default, these are an error.

    Attributes:
      class_names, channels: see :class:`jaxrnn.Split`.
      layout: shape and pixel order of the images, a :class:`jaxrnn.data.ImageLayout`.
      pixel_max: the pixel value that was mapped to 255; not 255 if pixels were stretched.

    Raises:
      ValueError: an unknown dataset or split, an empty split, damaged files, examples that are not
        labelled images of one size, or ``rows`` that don't divide them, when they are read.
      ImportError: tfds needs a package that is not installed.
      OSError: a file can't be read, ``data_dir`` can't be written, or a download fails.

    >>> source = Source("mnist", split="train")
    >>> len(source), source.read([0, 59_999])["labels"].tolist()
    (60000, [5, 8])
    """

    def __init__(
        self, name: str = "mnist", *, split: str, data_dir: _Path = None, archives: _Path = None,
        rows: int | None = None, permute: bool | int = False, background: str | None = None,
    ) -> None:  # fmt: skip
        data_dir, archives = data_dir or _directories.get()[0], archives or _directories.get()[1]
        where: Any = {"data_dir": data_dir, "archives": archives, "background": background}
        self._reading: Any = {"rows": rows, "permute": permute}
        self._reopen = partial(Source, name, split=split, **where, **self._reading)
        self._arrays, self.class_names, self.pixel_max = read_split(name, split, **where)
        seed = None if permute is False else 0 if permute is True else permute
        self.layout = ImageLayout(self._arrays.images.shape[1:], seed)
        self.channels = math.prod(self.layout.shape[2:])

    def __len__(self) -> int:
        return len(self._arrays.labels)

    def __reduce__(self) -> Any:
        return self._reopen, ()

    @property
    def digest(self) -> str:
        """SHA-256 of the examples, in order, computed from the stored digest of each."""
        return hashlib.sha256(np.ascontiguousarray(self._arrays.digests).data).hexdigest()

    def load(self) -> Split:
        """Read all examples into memory, in file order."""
        batch = self.read(range(len(self)))
        split = Split(**batch, class_names=self.class_names, channels=self.channels)
        vars(split)["digest"] = self.digest  # which would be computed otherwise
        return split

    def read(self, indices: Sequence[int] | np.ndarray | range) -> Batch:
        """Read the examples at these positions, in this order; see :func:`load` for shapes."""
        rows = np.asarray(indices)
        images, labels = self._arrays.images[rows], self._arrays.labels[rows]
        return {"inputs": as_sequences(images, **self._reading), "labels": labels}


def load(name: str = "mnist", *, split: str, **options: Any) -> Split:
    """Load one split of a dataset into memory, in file order; see :class:`Source`.

    MNIST is bundled and needs no network. By default, a time step is a row of pixels: ``inputs``
    are (N, time, features) uint8, and ``labels`` (N,) int32.

    >>> digits = load("mnist", split="train[:5]")
    >>> digits.inputs.shape, digits.labels.tolist()
    ((5, 28, 28), [5, 0, 4, 1, 9])
    """
    return Source(name, split=split, **options).load()


@dataclass(frozen=True, kw_only=True)
class ImageSequences(Group):
    """Labelled images, read as sequences of rows of pixels."""

    name: str = "mnist"
    """mnist (bundled), fashion_mnist, kmnist, or any tfds dataset of labelled images; idx for the
    files in --archives; a .npz file as Keras stores datasets; or a directory of images by class.
    """
    train: str = "train"
    """Split to train on; a tfds split string, such as train[:80%]."""
    validation: str | None = None
    """Split to evaluate after every epoch and to choose the best checkpoint by; None for none."""
    test: str | None = "test"
    """Split to evaluate after every epoch; None for none."""
    rows: Count | None = None
    """Number of time steps to cut each image into, in reading order; None for its height."""
    permute: bool = False
    """Shuffle the pixels of every image by the same permutation."""
    permutation: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of that permutation, for numpy's RandomState; 92916 in much of the literature."""
    background: str | None = None
    """Background color for transparent pictures, such as white; by default they are an error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.background is not None:
            ImageColor.getrgb(self.background)  # raises ValueError for an unknown color

    def build(self) -> Datasets:
        """Open the training split and load the others; raises as :class:`Source`."""
        read = partial(Source, self.name, **self._reading, background=self.background)
        train, splits = read(split=self.train), {"validation": self.validation, "test": self.test}
        evals = {role: read(split=name).load() for role, name in splits.items() if name is not None}
        classes, layout, pixel_max = len(train.class_names), train.layout, train.pixel_max
        return Datasets(train, evals, classes, layout=layout, pixel_max=pixel_max)

    def as_inputs(self, images: np.ndarray) -> np.ndarray:
        """Read images as sequences, (N, height, width[, channels]) → (N, time, features)."""
        return as_sequences(images, **self._reading)

    @property
    def _reading(self) -> dict[str, Any]:
        return {"rows": self.rows, "permute": self.permutation if self.permute else False}
