"""Estimate the brightness of paper in a picture, and the contrast of everything on it."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

PHOTOGRAPH = 40  # smaller pictures are crops and icons, without noise, frames and shadows
_STROKE = 0.5  # strokes are narrower than this fraction of the side
_LEAST = 15  # or, in small pictures, than this many pixels
_PAPER = 0.3  # at least this fraction of a picture is paper
_ROUNDING = 0.5 / 255  # half a gray level; smaller differences are rounding
_SMOOTH = 1.0  # standard deviation, in pixels, of the blur of noisy pictures
_NOISE = 6.0  # minimum contrast of ink, in standard deviations of the noise
_FAINT = 0.12  # minimum contrast of ink; JPEG's ringing at edges is fainter
_STEP = 0.03  # the least step of the paper that counts as an edge
_DARKEST = 0.05  # minimum brightness of paper with dark ink
_SAMPLE = 100_000  # approximate number of pixels for measuring noise


class Relief(NamedTuple):
    """What stands out from the paper: (height, width) arrays."""

    height: np.ndarray
    """Contrast with the paper; if ink is dark, relative to the brightness of the paper."""
    noise: np.ndarray
    """Standard deviation of the noise of ``height``."""
    certain: np.ndarray
    """``height`` where it is more than noise; 0 elsewhere."""
    cut: np.ndarray
    """Whether the estimated paper has an edge here that the picture lacks."""


def subtract_paper(gray: np.ndarray, bright: bool) -> Relief:
    """Measure what is brighter (or darker) than the paper.

    The paper is the morphological opening of the picture (closing, if ink is dark) by a square
    wider than any stroke: it follows gradients and the edges of shadows and sheets exactly. The
    outermost pixels are repeated, so that frames along the edges are paper too. Noise is measured
    where the picture differs little from the paper.
    """
    small = min(gray.shape) < PHOTOGRAPH
    smooth = ndimage.gaussian_filter(gray, _SMOOTH)
    if not small and np.quantile(_sample(np.abs(gray - smooth)), _PAPER) > _ROUNDING:
        gray = smooth
    level = gray if bright else -gray
    paper = _opening(level, max(_LEAST, round(_STROKE * gray.size**0.5)), small)
    excess = level - paper
    jump, contrast = (ndimage.morphological_gradient(array, 3) for array in (paper, level))
    bias, noise = (0.0, 0.0) if small else _noise(_sample(excess))
    cut = (jump > max(_NOISE * noise, _STEP)) & (contrast < 0.4 * jump)
    scale = np.float32(1) if bright else np.maximum(-paper, _DARKEST)
    height = (excess - bias) / scale
    deviation = np.broadcast_to(np.float32(noise) / scale, height.shape)
    above = (height > np.maximum(_NOISE * deviation, _FAINT)) & (excess > _FAINT / 2)
    certain = np.where(above, height, 0)
    return Relief(height, deviation, certain, cut)


def _sample(array: np.ndarray) -> np.ndarray:
    return array.ravel()[:: 1 + array.size // _SAMPLE]


def _opening(level: np.ndarray, size: int, small: bool) -> np.ndarray:
    """Open by a square, padded with the outermost pixels, or the paper of a crop."""
    margin = size // 2
    around = {"constant_values": level.min()} if small else {"mode": "edge"}
    wide = np.pad(level, margin, **around)
    opened = ndimage.grey_opening(wide, 2 * margin + 1, mode="nearest")
    return opened[margin : margin + level.shape[0], margin : margin + level.shape[1]]


def _noise(excess: np.ndarray) -> tuple[float, float]:
    """Return the median and the standard deviation of the noise."""
    low, middle = np.quantile(excess, [_PAPER / 3, _PAPER])
    paper = excess[excess <= middle + 5 * (middle - low) + _ROUNDING]
    bias = float(np.median(paper))  # the opening of noise is below its mean
    return bias, 1.4826 * float(np.median(np.abs(paper - bias)))  # for a normal distribution
