"""Ink: find what is drawn on paper in unevenly lit, noisy pictures."""

from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from .marks import NEAR, find_strokes, one_mark
from .paper import Relief, subtract_paper

_WORKING = 3_000_000  # pixels; larger pictures are shrunk, for speed
_ROUNDING = 0.5 / 255  # half a gray level; smaller differences are rounding
_NOISE = 3.0  # standard deviations of noise that are cut off at each end of the scale
_SOFT = 0.01  # the soft edge of a stroke is wider by this fraction of the size of the mark
_HOLE = 0.1  # a polarity that finds less than this fraction of the other's ink is finding noise


def find_ink(picture: np.ndarray, ink: Literal["auto", "bright", "dark"] = "auto") -> np.ndarray:
    """Separate the one mark on a page from paper in an unevenly lit, noisy picture.

    What stands out from the paper (:func:`subtract_paper`) is cut into connected components, of
    which frames, lines, sheets and specks are left out (:func:`find_strokes`); the others must form
    one mark. Noise is cut off at both ends of the scale, so that paper is 0 and the middle of
    strokes is 1.

    Args:
      picture: (height, width), uint8 or floats from 0 to 1.
      ink: ``bright`` on dark paper, ``dark`` on bright paper, or ``auto``: the polarity of the
        larger mark, as the other one sees only holes.

    Returns:
      (height, width) float32: 0 for paper, up to 1 for ink. Pictures of over three megapixels are
      shrunk.

    Raises:
      ValueError: the picture is not two-dimensional or not finite, ``ink`` is unknown, or there is
        no mark, or there are several.

    >>> find_ink(np.array([[9, 9, 9, 9], [9, 9, 209, 9], [9, 9, 9, 9]], np.uint8))
    array([[0., 0., 0., 0.],
           [0., 0., 1., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    if ink not in ("auto", "bright", "dark"):
        raise ValueError(f"ink must be auto, bright or dark; got {ink!r}")
    gray = _shrink(_as_floats(picture))
    found = []
    for bright in (True, False) if ink == "auto" else (ink == "bright",):
        if gray.size:
            relief = subtract_paper(gray, bright)
            found.append((find_strokes(relief), relief))
    amount = max((strokes.amount for strokes, _ in found), default=0)
    if not amount:
        but = " except a frame or lines" if any(strokes.lines for strokes, _ in found) else ""
        raise ValueError(f"there is no mark in the picture{but}")
    likely = [pair for pair in found if pair[0].amount > _HOLE * amount]
    strokes, relief = max(likely, key=lambda pair: pair[0].area)
    return _scale(one_mark(strokes), relief)


def _scale(mask: np.ndarray, relief: Relief) -> np.ndarray:
    """Return the ink of a mark, scaled from 0 to 1."""
    box = ndimage.find_objects(mask.astype(int))[0]
    size = max(side.stop - side.start for side in box)
    soft = max(0, round(_SOFT * size) - NEAR)  # beyond what the mask holds
    box = tuple(slice(max(0, side.start - soft), side.stop + soft) for side in box)
    near, height = mask[box], relief.height[box]
    if soft:
        near = ndimage.binary_dilation(near, iterations=soft)
    floor = _NOISE * float(np.median(relief.noise[box]))
    ceiling = float(height[near].max())
    scaled = np.clip((height - floor) / (ceiling - floor), 0, 1)
    ink = np.zeros(mask.shape, np.float32)
    ink[box] = np.where(near & (height > _ROUNDING), scaled, 0)
    return ink


def _as_floats(picture: np.ndarray) -> np.ndarray:
    gray = np.asarray(picture, np.float32) / (255 if picture.dtype == np.uint8 else 1)
    if gray.ndim != 2 or not np.isfinite(gray).all():
        raise ValueError(
            f"a picture must be (height, width), finite and gray; got shape {picture.shape}"
        )
    return gray


def _shrink(gray: np.ndarray) -> np.ndarray:
    scale = (_WORKING / max(gray.size, 1)) ** 0.5
    if scale >= 1:
        return gray
    height, width = (max(1, round(scale * side)) for side in gray.shape)
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BOX))
