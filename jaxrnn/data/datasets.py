"""Datasets: what an experiment trains and evaluates on; ImageSequences builds them from tfds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Lt

from jaxrnn.data.convert import as_sequences
from jaxrnn.data.images import Source, load
from jaxrnn.data.readable import Readable
from jaxrnn.data.splits import Split
from jaxrnn.groups import Count, Group


@dataclass(frozen=True)
class Datasets:
    """The data of an experiment, returned by ``build()`` of its data group.

    Attributes:
      train: what to train on: a :class:`jaxrnn.Split`, or a :class:`jaxrnn.Source` or anything like
        it, which can be streamed.
      evals: what to evaluate after every epoch, by name, in the order in which they are reported.
        The first one chooses the best checkpoint.
      outputs: the number of outputs of the network: of classes, or of numbers to predict.
      baselines: values to draw beside the curves, by metric and name, as in ``{"loss": {"always the
        mean": 0.1}}``.
    """

    train: Split | Readable
    evals: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImageSequences(Group):
    """Labelled images, read as sequences of rows of pixels."""

    name: str = "mnist"
    """mnist (bundled), fashion_mnist, kmnist, or any tfds dataset of labelled images; idx for the
    files in --archives; a .npz file as Keras stores data sets; or a directory of images by class.
    """
    train: str = "train"
    """Split to train on; a tfds split string, such as train[:80%]."""
    validation: str | None = None
    """Split to evaluate after every epoch and to choose the best checkpoint by; None for none."""
    test: str | None = "test"
    """Split to evaluate after every epoch; None for none."""
    rows: Count | None = None
    """Number of time steps to cut each image into, in reading order; None for its rows."""
    permute: bool = False
    """Shuffle the pixels of all images by one fixed permutation."""
    permutation: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of that permutation, for numpy's RandomState; 92916 in much of the literature."""

    def build(self) -> Datasets:
        """Open the training split and load the others.

        Raises:
          ValueError, FileNotFoundError, ImportError, OSError: see :func:`jaxrnn.load`.
        """
        options = self._options
        train = Source(self.name, split=self.train, **options)
        evals = {"validation": self.validation, "test": self.test}
        loaded = {
            role: load(self.name, split=split, **options)
            for role, split in evals.items()
            if split is not None
        }
        return Datasets(train=train, evals=loaded, outputs=len(train.class_names))

    def as_inputs(self, images: np.ndarray) -> np.ndarray:
        """Read images as sequences, (N, height, width[, channels]) → (N, time, features)."""
        return as_sequences(images, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {"rows": self.rows, "permute": self.permutation if self.permute else False}
