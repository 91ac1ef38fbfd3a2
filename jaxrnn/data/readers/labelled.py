"""Classes and pixel ranges of labelled images, shared by all readers of files."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxrnn.data.convert import as_column, convert
from jaxrnn.data.readers.arrays import Arrays, Images

log = logging.getLogger("jaxrnn")

_WHITE = 255


def label_images(
    where: Path, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...] = ()
) -> Images:
    """Check and convert the images and labels of each split, the training split first.

    Labels are the names of classes, or indices; indices without names may start at 0 or 1.

    Raises:
      ValueError: images or labels have an unsupported type, shape or range.
    """
    labels = {split: np.asarray(pair[1]) for split, pair in pairs.items()}
    try:
        if any(array.dtype.kind in "SU" for array in labels.values()):
            labels, names = _find_indices(labels)
        labels = {split: as_column(convert("labels", array)) for split, array in labels.items()}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for split, (images, _) in pairs.items():
        _check_arrays(where, split, images, labels[split])
    lowest, highest = (f([f(array) for array in labels.values()]) for f in (np.min, np.max))
    first = min(lowest, 1) if highest >= len(names) else 0
    names = names if highest < len(names) else tuple(map(str, range(first, highest + 1)))
    pixel_max = find_pixel_max(next(iter(pairs.values()))[0])
    splits = {}
    for split, (images, _) in pairs.items():
        try:
            pixels = stretch(images, pixel_max)
        except ValueError as error:
            raise ValueError(f"{where}: the {split} images have {error}") from error
        splits[split] = [Arrays(pixels, labels[split].astype(np.int32) - first)]
    if pixel_max != _WHITE:
        log.warning("%s: pixels from 0 to %s are stretched to 0 … 255", where, pixel_max)
    return Images(splits, names, pixel_max)


def _check_arrays(where: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if (
        (images.dtype.kind not in "biuf" or images.ndim not in (3, 4) or not images.size)
        or (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu")
        or not 0 <= labels.min() <= labels.max() < 2**16
    ):
        raise ValueError(
            f"{where}: expected {split} images (N, height, width) and labels (N,), class indices "
            f"from 0 or names; got {images.shape} {images.dtype} and {labels.shape} {labels.dtype}"
            f" from {labels.min(initial=0)} to {labels.max(initial=0)}"
        )


def _find_indices(
    labels: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the index of each class name in alphabetical order, and the names."""
    words = {
        split: np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
        for split, array in labels.items()
    }
    names = check_classes(words)
    return {split: np.searchsorted(names, array) for split, array in words.items()}, names


def check_classes(words: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the sorted class names of the first split; other splits must not have more."""
    first, *others = words
    known = np.unique(words[first]).tolist()
    for split in others:
        if unknown := sorted({*np.unique(words[split]).tolist()} - {*known}):
            raise ValueError(f"{split} has the class {unknown[0]!r}, which {first} lacks")
    return tuple(known)


def find_pixel_max(images: np.ndarray) -> int:
    """Return the pixel value that represents white.

    It is 1 for values from 0 to 1, the maximum for integers that are all below 128, as in images of
    16 or 100 gray levels, and otherwise 255.
    """
    most = images.max()
    if 0 < most <= 1:
        return 1
    return int(most) if 1 < most < 128 and is_whole(images) else _WHITE


def stretch(images: np.ndarray, pixel_max: int) -> np.ndarray:
    """Convert images to uint8, mapping ``pixel_max`` to 255.

    Raises:
      ValueError: a pixel is out of range, or not an integer although ``pixel_max`` is 255.
    """
    least, most = images.min(), images.max()
    if not 0 <= least <= most <= pixel_max or (pixel_max == _WHITE and not is_whole(images)):
        expected = f"numbers from 0 to {pixel_max}, the maximum of the training images"
        if pixel_max == _WHITE:
            expected = "whole numbers from 0 to 255, or numbers from 0 to 1 in every split"
        raise ValueError(f"{images.dtype} from {least:g} to {most:g}; expected {expected}")
    if pixel_max == _WHITE:
        return images.astype(np.uint8, copy=False)
    return np.round(images * np.float32(_WHITE) / np.float32(pixel_max)).astype(np.uint8)


def is_whole(images: np.ndarray) -> bool:
    """Return whether all values are integers."""
    kind = images.dtype.kind
    return kind in "biu" or (kind == "f" and bool((images == np.round(images)).all()))
