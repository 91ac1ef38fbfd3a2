"""Ink: find what is drawn on paper in unevenly lit, noisy pictures."""

from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

_WORKING = 200  # larger pictures are shrunk to the area of a square of this side, for speed
_STROKE = 0.4  # strokes are narrower than this fraction of the side
_PAPER = 0.3  # at least this fraction of a picture is paper
_ROUNDING = 0.5 / 255  # half a gray level; smaller differences are rounding
_SMOOTH = 0.01  # standard deviation of the blur of noisy pictures, as a fraction of the side
_NOISE = 3.0  # standard deviations of noise that are cut off at each end of the scale
_CORE = 0.3  # every stroke has ink of at least this fraction of the strongest
_NEAR = 2  # pixels by which the soft edge of a stroke extends beyond such ink
_SPECK = 0.03  # marks with less than this fraction of the largest stroke's ink are dirt


def find_ink(picture: np.ndarray, ink: Literal["auto", "bright", "dark"] = "auto") -> np.ndarray:
    """Separate ink from paper in an unevenly lit, noisy picture.

    The paper is the morphological opening of the picture (closing, if ink is dark) by a square
    wider than any stroke: it follows gradients and shadows. Noise is measured where the picture
    differs little from it, and cut off at both ends of the scale, so that paper is 0 and the middle
    of strokes is 1. Ink is kept near strong connected strokes, which removes specks and JPEG
    ringing. From pictures without noise, only the paper is subtracted.

    Args:
      picture: (height, width), uint8 or floats from 0 to 1.
      ink: ``bright`` on dark paper, ``dark`` on bright paper, or ``auto``: decided by the
        difference between the picture and a smooth surface fitted to its border.

    Returns:
      (height, width) float32: 0 for paper, up to 1 for ink; all 0 if there is none. Large pictures
      are shrunk to the area of 200 × 200 pixels.

    Raises:
      ValueError: the picture is not two-dimensional or not finite, or ``ink`` is unknown.

    >>> find_ink(np.array([[9, 9, 9, 9], [9, 9, 209, 9], [9, 9, 9, 9]], np.uint8))
    array([[0., 0., 0., 0.],
           [0., 0., 1., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    if ink not in ("auto", "bright", "dark"):
        raise ValueError(f"ink must be auto, bright or dark; got {ink!r}")
    gray = _shrink(_as_floats(picture))
    if not gray.size:
        return gray
    level = _subtract_surface(gray)
    bright = (level**3).sum() > 0 if ink == "auto" else ink == "bright"
    excess, noise = _subtract_paper(level if bright else -level)
    strongest, floor = excess.max(), _NOISE * noise
    if strongest - floor <= max(floor, _ROUNDING):
        return np.zeros_like(gray)
    near = _near_strokes(np.where(excess > max(floor, _CORE * strongest), excess, 0))
    ceiling = excess[near].max() - floor
    scaled = np.clip((excess - floor) / (ceiling - floor), 0, 1)
    return np.where(near & (excess > _ROUNDING), scaled, 0).astype(np.float32)


def _as_floats(picture: np.ndarray) -> np.ndarray:
    gray = np.asarray(picture, np.float32) / (255 if picture.dtype == np.uint8 else 1)
    if gray.ndim != 2 or not np.isfinite(gray).all():
        raise ValueError(
            f"a picture must be (height, width), finite and gray; got shape {picture.shape}"
        )
    return gray


def _shrink(gray: np.ndarray) -> np.ndarray:
    """Shrink to at most ``_WORKING`` squared pixels, each the mean of an area."""
    scale = _WORKING / max(gray.size, 1) ** 0.5
    if scale >= 1:
        return gray
    height, width = (max(1, round(scale * side)) for side in gray.shape)
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BOX))


def _subtract_surface(gray: np.ndarray) -> np.ndarray:
    """Subtract a quadratic surface fitted to the border."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in gray.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).astype(np.float32)
    border = np.ones(gray.shape, bool)
    border[1:-1, 1:-1] = False
    weights = np.ones(border.sum())
    for _ in range(20):  # least absolute deviations, robust to ink at the border
        scaled = terms[border] * weights[:, None]
        fit = np.linalg.lstsq(scaled, gray[border] * weights)[0].astype(np.float32)
        weights = (np.abs(gray[border] - terms[border] @ fit) + 0.1 * _ROUNDING) ** -0.5
    return gray - terms @ fit


def _subtract_paper(level: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the picture minus the paper, and the standard deviation of the noise."""
    side = level.size**0.5  # of a square of the same area
    smooth = ndimage.gaussian_filter(level, _SMOOTH * side)
    if np.quantile(np.abs(level - smooth), _PAPER) > _ROUNDING:
        level = smooth
    excess = level - ndimage.grey_opening(level, max(3, round(_STROKE * side)))
    low, middle = np.quantile(excess, [_PAPER / 3, _PAPER])
    paper = excess[excess <= middle + 5 * (middle - low) + _ROUNDING]
    bias = np.median(paper)  # the opening of noise is below its mean
    deviation = 1.4826 * float(np.median(np.abs(paper - bias)))  # for a normal distribution
    return excess - bias, deviation


def _near_strokes(strong: np.ndarray) -> np.ndarray:
    """Mask of what is near strong ink that belongs to a stroke rather than a speck."""
    around = ndimage.binary_dilation(strong > 0, iterations=_NEAR)
    labels, count = ndimage.label(around)
    amounts = ndimage.sum(strong, labels, np.arange(count + 1))
    return around & (amounts >= _SPECK * amounts.max())[labels]
