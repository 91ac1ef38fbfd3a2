"""Split and its protocols: arrays in, batches out."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence, Sized
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from flax import struct
from google.protobuf.message import DecodeError

from jaxrnn.datasets import IdxImages, damaged, find_builder, prepare

Batch = dict[str, Any]
"""``inputs`` (batch, time, features), ``labels`` (batch,) and, if any, ``lengths`` (batch,)."""

_READ_AT_ONCE = 4096  # examples; bounds what is held besides the arrays themselves


@struct.dataclass
class Split:
    """Labelled sequences, a pytree: hand it to ``jax.device_put`` or to a jitted function.

    Attributes:
      inputs: (N, time, features); uint8 pixels 0 … 255, or floats that are taken as they are.
      labels: (N,) int32, class indices from 0.
      lengths: (N,) int32, the valid time steps of each sequence, or None where all are.
      class_names: what each label is called, in order; may be empty.
      channels: numbers for each pixel, side by side in ``features``, where images were read.
    """

    inputs: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray | None = None
    class_names: tuple[str, ...] = struct.field(pytree_node=False, default=())
    channels: int = struct.field(pytree_node=False, default=1)

    def __len__(self) -> int:
        return len(self.labels)


class Source:
    """Labelled sequences on disk, any of which can be read at any time, for :func:`jaxrnn.stream`.

    Opening one prepares the dataset where needed, and reads nothing of it; that takes memory for an
    index, some bytes an example. A source can be pickled: it is opened again where it arrives.

    Args:
      name, split, data_dir, archives, rows: see :func:`load`.

    Attributes:
      class_names: what each label is called, in order.
      channels: numbers for each pixel, side by side in ``features``.

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
        data_dir: str | os.PathLike[str] | None = None,
        archives: str | os.PathLike[str] | None = None,
        rows: int | None = None,
    ) -> None:
        self._name, self._rows = name, rows
        self._places: dict[str, Any] = {
            "split": split,
            "data_dir": data_dir,
            "archives": archives,
            "rows": rows,
        }
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
                raise ValueError(
                    f"{name!r} is no dataset of labelled images, the kind that is read"
                )
        prepare(builder)

        try:
            size = builder.info.splits[split].num_examples
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(
                f"split {split!r} of {name!r}: {str(error).splitlines()[0]}"
            ) from error
        if size < 1:
            raise ValueError(f"split {split!r} of {name!r} holds no examples")
        with self._reading():
            self._examples = (
                builder.records(split)
                if isinstance(builder, IdxImages)
                else builder.as_data_source(split)
            )

    def __len__(self) -> int:
        return len(self._examples)

    def __reduce__(self) -> Any:
        return partial(type(self), **self._places), (self._name,)

    def read(self, indices: Sequence[int] | np.ndarray | range) -> Batch:
        """The examples at these places, one or more, in this order.

        Returns:
          ``inputs`` (N, time, features) uint8 and ``labels`` (N,) int32, numpy arrays.

        Raises:
          ValueError: the prepared data is damaged, or its images are not of one size.
        """
        places = np.asarray(indices)
        with self._reading():
            if isinstance(self._builder, IdxImages):
                images, labels = self._builder.parse(self._examples.read(places))
            else:
                images, labels = _read(self._examples, places.tolist(), *self._keys)
        return {"inputs": as_sequences(images, self._rows), "labels": labels}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except NotImplementedError as error:
            raise ValueError(
                f"{self._name!r} is prepared in {self._builder.data_dir} in a format without "
                "random access; choose another data dir"
            ) from error
        except (OSError, RuntimeError, IndexError, DecodeError) as error:
            raise damaged(self._builder, error) from error


def load(
    name: str = "mnist",
    *,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    archives: str | os.PathLike[str] | None = None,
    rows: int | None = None,
) -> Split:
    """Load one split of a dataset into memory, in file order, preparing the dataset where needed.

    MNIST is bundled and touches no network. An image is read as a sequence, one row of pixels per
    time step.

    Args:
      name: ``mnist``, ``fashion_mnist``, ``kmnist``, or any tfds dataset of labelled images.
      split: a tfds split string, such as ``"train[:48000]"``, ``"train[80%:]"`` or ``"test"``.
      data_dir: where prepared datasets are kept; tfds's own folder by default.
      archives: folder with the four archives of a dataset of the MNIST family.
      rows: time steps that each image is cut into, in reading order; its own rows by default.

    Returns:
      A :class:`Split` of numpy arrays: ``inputs`` (N, time, features) uint8, ``labels`` (N,) int32.

    Raises:
      ValueError: unknown dataset or split, an empty split, examples that are not labelled images of
        one size, or ``rows`` that do not divide them.
      FileNotFoundError, ImportError, OSError: see :func:`jaxrnn.datasets.find_builder` and
        :func:`jaxrnn.datasets.prepare`.

    >>> digits = load("mnist", split="train[:5]")
    >>> digits.inputs.shape, digits.labels.tolist()
    ((5, 28, 28), [5, 0, 4, 1, 9])
    """
    source = Source(name, split=split, data_dir=data_dir, archives=archives, rows=rows)
    batch = source.read(range(len(source)))
    return Split(**batch, class_names=source.class_names, channels=source.channels)


def _read(
    source: Any, places: Sequence[int], input_key: str, label_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Examples of a tfds data source: images (N, height, width, …) and labels (N,) int32."""
    first = source[places[0]][input_key]
    images = np.empty((len(places), *first.shape), first.dtype)
    labels = np.empty(len(places), np.int32)
    for start in range(0, len(places), _READ_AT_ONCE):
        some = places[start : start + _READ_AT_ONCE]
        for row, example in enumerate(source.__getitems__(some), start):
            if example[input_key].shape != first.shape:
                raise ValueError(
                    f"images of several sizes, {first.shape} and {example[input_key].shape}"
                )
            images[row] = example[input_key]
            labels[row] = example[label_key]
    return images, labels


def as_sequences(images: np.ndarray, rows: int | None = None) -> np.ndarray:
    """Read images as sequences: (N, height, width[, channels]) → (N, time, features).

    Args:
      images: at least (N, time); trailing axes are flattened into features.
      rows: time steps to cut each image into, in reading order; its own rows by default.

    Raises:
      ValueError: an image's elements do not divide into ``rows`` equal parts.

    >>> as_sequences(np.zeros((2, 28, 28, 1)), rows=784).shape
    (2, 784, 1)
    """
    size = int(np.prod(images.shape[1:]))
    rows = images.shape[1] if rows is None else rows
    if rows < 1 or size % rows:
        raise ValueError(f"an image of {size} elements cannot be read as {rows} rows of equal size")
    return images.reshape(len(images), rows, size // rows)


def scale(inputs: jax.Array) -> jax.Array:
    """Pixels as the network reads them: uint8 0 … 255 → float32 0 … 1. Floats stay as they are."""
    return inputs.astype(jnp.float32) / 255 if inputs.dtype == jnp.uint8 else inputs


def check_examples(examples: Split | Batch) -> None:
    """Raise ``ValueError`` unless the arrays of a split or batch fit each other.

    JAX clamps indices that are out of range instead of raising, so that arrays of different lengths
    would give plausible, wrong numbers.
    """
    batch: Batch = examples if isinstance(examples, dict) else vars(examples)
    inputs, labels, lengths = batch["inputs"], batch["labels"], batch.get("lengths")
    shapes = {"inputs": jnp.shape(inputs), "labels": jnp.shape(labels)}
    fits = len(shapes["inputs"]) == 3 and shapes["labels"] == shapes["inputs"][:1]
    if lengths is not None:
        shapes["lengths"] = jnp.shape(lengths)
        fits &= shapes["lengths"] == shapes["labels"]
    if not fits:
        raise ValueError(
            "expected inputs (N, time, features), labels (N,) and, if any, lengths (N,); got "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        )
    inputs_dtype, labels_dtype = jnp.result_type(inputs), jnp.result_type(labels)
    if inputs_dtype != jnp.uint8 and not jnp.issubdtype(inputs_dtype, jnp.floating):
        raise ValueError(f"inputs must be uint8 pixels or floats; got {inputs_dtype}")
    if not jnp.issubdtype(labels_dtype, jnp.integer):
        raise ValueError(f"labels must be integers; got {labels_dtype}")


def take(split: Split, indices: jax.Array | np.ndarray) -> Batch:
    """The examples at ``indices``, as a batch: ``inputs``, ``labels`` and, if any, ``lengths``."""
    batch = {"inputs": split.inputs[indices], "labels": split.labels[indices]}
    if split.lengths is not None:
        batch["lengths"] = split.lengths[indices]
    return batch


def epoch_indices(
    key: jax.Array, size: int, *, batch_size: int, drop_remainder: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The data order of one epoch: a permutation of all examples, cut into batches.

    Args:
      key: of this epoch alone; ``jax.random.fold_in(root_key, epoch)`` in :func:`jaxrnn.fit`.
      size: examples in the split.
      batch_size: examples in a batch, at most ``size``.
      drop_remainder: leave out the examples that do not fill a batch, others in each epoch.

    Returns:
      The whole batches, (size // batch_size, batch_size), and the short last one, (size %
      batch_size,), which is empty where nothing is left over or it is dropped.
    """
    order = jax.random.permutation(key, size)
    whole = size // batch_size * batch_size
    rest = order[whole:whole] if drop_remainder else order[whole:]
    return order[:whole].reshape(-1, batch_size), rest


def batches(
    split: Split, key: jax.Array, *, batch_size: int, drop_remainder: bool = False
) -> Iterator[Batch]:
    """One epoch of batches for a loop of your own, in the order that ``train_epoch`` takes them.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples.

    >>> digits = load("mnist", split="train[:100]")
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
