"""Classes and pixel ranges of labelled images, shared by all readers of files."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxrnn.data.convert import as_column, convert, is_whole
from jaxrnn.data.readers.arrays import Arrays, Images

log = logging.getLogger("jaxrnn")


def label_images(
    where: Path, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...] = ()
) -> Images:
    """Check and convert the images and labels of each split, the training split first.

    Labels are the names of classes, or indices; indices without names may start at 0 or 1.

    Raises:
      ValueError: images or labels have an unsupported type, shape or range.
    """
    splits = {}
    labels = {split: np.asarray(pair[1]) for split, pair in pairs.items()}
    try:
        if any(array.dtype.kind in "SU" for array in labels.values()):
            labels, names = _find_indices(labels)
        for split, (images, _) in pairs.items():
            labels[split] = as_column(convert("labels", labels[split]))
            _check_arrays(split, images, labels[split])
        lowest, highest = (f([f(array) for array in labels.values()]) for f in (np.min, np.max))
        first = 0
        if highest >= len(names):
            first = min(lowest, 1)
            names = tuple(map(str, range(first, highest + 1)))
        pixel_max = find_pixel_max(next(iter(pairs.values()))[0])
        for split, (images, _) in pairs.items():
            pixels = stretch(images, pixel_max, f"the {split} images have ")
            splits[split] = [Arrays(pixels, labels[split].astype(np.int32) - first)]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if pixel_max != 255:
        log.warning("%s: pixels from 0 to %s are stretched to 0 … 255", where, pixel_max)
    return Images(splits, names, pixel_max)


def _find_indices(
    labels: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the index of each class name in alphabetical order, and the names of the first split.

    Other splits must not have more classes.
    """
    words = {
        split: np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
        for split, array in labels.items()
    }
    first, *others = words
    known = np.unique(words[first])
    for split in others:
        if len(unknown := np.setdiff1d(words[split], known)):
            raise ValueError(f"{split} has the class {str(unknown[0])!r}, which {first} lacks")
    indices = {split: np.searchsorted(known, array) for split, array in words.items()}
    return indices, tuple(known.tolist())


def _check_arrays(split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if (
        (images.dtype.kind not in "biuf" or images.ndim not in (3, 4) or not images.size)
        or (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu")
        or not 0 <= labels.min() <= labels.max() < 2**16
    ):
        raise ValueError(
            f"expected {split} images (N, height, width) and labels (N,), class indices from 0 or "
            f"names; got {images.shape} {images.dtype} and {labels.shape} {labels.dtype} from "
            f"{labels.min(initial=0)} to {labels.max(initial=0)}"
        )


def find_pixel_max(images: np.ndarray) -> int:
    """Return the pixel value that represents white.

    It is 1 for values from 0 to 1, the maximum for integers that are all below 128, as in images of
    16 or 100 gray levels, and otherwise 255.
    """
    most = images.max()
    if 0 < most <= 1:
        return 1
    return int(most) if 1 < most < 128 and is_whole(images) else 255


def stretch(images: np.ndarray, pixel_max: int, what: str = "") -> np.ndarray:
    """Convert images to uint8, mapping ``pixel_max`` to 255; errors begin with ``what``.

    Raises:
      ValueError: a pixel is out of range, or not an integer although ``pixel_max`` is 255.
    """
    least, most = images.min(), images.max()
    if not 0 <= least <= most <= pixel_max or (pixel_max == 255 and not is_whole(images)):
        expected = f"numbers from 0 to {pixel_max}, the maximum of the training images"
        if pixel_max == 255:
            expected = "whole numbers from 0 to 255, or numbers from 0 to 1 in every split"
        raise ValueError(f"{what}{images.dtype} from {least:g} to {most:g}; expected {expected}")
    if pixel_max == 255:
        return images.astype(np.uint8, copy=False)
    return np.round(images * np.float32(255) / np.float32(pixel_max)).astype(np.uint8)
