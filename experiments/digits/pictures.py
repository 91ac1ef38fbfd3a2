"""Pictures of digits, turned into images like those of MNIST."""

from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from .ink import find_ink

SIDE = 28  # side of an MNIST image, in pixels
BOX = 20  # side of the square that its ink fills
_ENLARGED = 12  # factor by which small digits are enlarged
_BLUR = 0.25  # enlarged ink below this fraction of the strongest is blur


def normalize_digit(
    picture: np.ndarray, ink: Literal["auto", "bright", "dark"] = "auto"
) -> np.ndarray:
    """Turn a picture of a digit into an image like those of MNIST, (28, 28) uint8.

    Arguments and errors are those of :func:`find_ink`. A digit of MNIST hardly changes.
    """
    return fit_digit(_enlarge(find_ink(picture, ink)))


def fit_digit(ink: np.ndarray) -> np.ndarray:
    """Fit ink into an image as MNIST's authors did, centered and with the same aspect ratio.

    The bounding box of the ink is scaled to 20 pixels along its longer side, and placed in 28 × 28
    pixels so that its center of mass is in the middle.

    Args:
      ink: (height, width) floats, 0 for paper and larger for ink.

    Returns:
      (28, 28) uint8, ink bright on dark.

    Raises:
      ValueError: there is no ink.
    """
    marked = ink > 0
    if not marked.any():
        raise ValueError("there is no ink in the picture")
    rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(BOX * size / max(box.shape))) for size in box.shape)
    small = _resampling(box.shape[0], height) @ box @ _resampling(box.shape[1], width).T

    image = np.zeros((SIDE, SIDE), np.float32)
    top, left = (
        # Rounded, as otherwise the last bits would decide where symmetric ink goes.
        int(np.clip(np.ceil(np.round((SIDE - 1) / 2 - center, 4)), 0, SIDE - size))
        for center, size in zip(ndimage.center_of_mass(small), small.shape, strict=True)
    )
    image[top : top + height, left : left + width] = small / small.max()
    return np.round(255 * image).astype(np.uint8)


def _enlarge(ink: np.ndarray) -> np.ndarray:
    """Enlarge ink that is smaller than an MNIST digit, whose strokes would be blurred otherwise."""
    lines = [np.flatnonzero(ink.any(axis)) for axis in (1, 0)]
    if max(np.ptp(line) + 1 for line in lines) >= BOX:
        return ink
    rows, columns = (slice(line[0], line[-1] + 1) for line in lines)
    small = np.pad(ink[rows, columns], 2)
    size = (_ENLARGED * small.shape[1], _ENLARGED * small.shape[0])
    large = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    return np.where(large > _BLUR * large.max(), large, 0)


def _resampling(size: int, new: int) -> np.ndarray:
    """Return the (new, size) matrix that resamples a line by antialiased interpolation."""
    step = size / new
    distance = (np.arange(new)[:, None] + 0.5) * step - (np.arange(size)[None] + 0.5)
    weights = np.maximum(0, 1 - np.abs(distance) / max(step, 1))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
