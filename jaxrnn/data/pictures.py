"""Pictures: files and arrays of any size and color, read as images of a given size."""

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

PIXELS = 50_000_000  # larger pictures are not decoded
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may run programs

PictureLike = Path | BinaryIO | np.ndarray
"""Path or open binary file of a picture in one of ``FORMATS``, of which the first frame is read; or
a (height, width) or uint8 (height, width, channels) array."""


def read_picture(picture: PictureLike) -> np.ndarray:
    """Read a picture in grayscale, rotated upright by its EXIF orientation.

    Returns:
      (height, width) float32, from 0 for black to 1 for white.

    Raises:
      ValueError: the picture is of another format, damaged, transparent, or larger than
        ``PIXELS``.
      OSError: the file cannot be opened.
    """
    image = open_picture(picture)
    if image.mode == "F":
        return np.array(image)
    return np.asarray(image.convert("L")) / np.float32(255)


def fit_picture(
    picture: PictureLike, shape: tuple[int, int, int], *, resize: bool = True
) -> np.ndarray:
    """Read and resize a picture; one that has the size already keeps its pixels exactly.

    Args:
      picture: what to read.
      shape: (height, width, channels) of the result, with 1 channel for gray and 3 for RGB; the
        aspect ratio is not preserved.
      resize: if False, the picture must already have that size.

    Returns:
      uint8, (height, width) or (height, width, 3).

    Raises:
      ValueError, OSError: as :func:`read_picture`; or a wrong size or number of channels.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB); got {channels}")
    image = open_picture(picture)
    if not resize and image.size != (width, height):
        size = f"{image.width} × {image.height}"
        raise ValueError(f"the picture must be {width} pixels wide and {height} high; got {size}")
    if image.mode == "F":
        image = Image.fromarray(np.round(255 * np.asarray(image)).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def open_picture(picture: PictureLike) -> Image.Image:
    """Open a picture upright, in mode L, RGB, or F with numbers from 0 to 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd files, and sizes refused here
        if isinstance(picture, np.ndarray):
            return _opaque(_from_array(picture))
        with picture.open("rb") if isinstance(picture, Path) else nullcontext(picture) as file:
            return _opaque(_decode(file))


def _decode(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
        pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = PIXELS + 1
    except Exception as error:  # Pillow may raise anything for other files
        raise ValueError(f"not a picture in one of the formats {', '.join(FORMATS)}") from error
    if pixels > PIXELS:
        raise ValueError(f"the picture has over {PIXELS:,} pixels; shrink it first")
    try:
        return ImageOps.exif_transpose(image)  # this decodes it
    except Exception as error:
        raise ValueError("the picture is damaged or incomplete") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size and array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)
    if array.ndim == 2 and array.dtype != np.uint8:
        array = array.astype(np.float32)
    is_color = array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8
    if not array.size or not (array.ndim == 2 or is_color):
        raise ValueError(
            "a picture must be (height, width), or (height, width, 3) uint8; got "
            f"{array.shape} {array.dtype}"
        )
    return Image.fromarray(array)


def _opaque(image: Image.Image) -> Image.Image:
    if wide := image.mode[0] in "IF":  # more than 8 bits
        numbers = np.asarray(image).astype(np.float32)
        transparent = (numbers == image.info.get("transparency")).any()
    else:
        alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else 255
        transparent = np.min(alpha) < 255
    if transparent:
        raise ValueError("the picture is transparent in places; put it on a background first")
    if not wide:
        return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    if not np.isfinite(numbers).all():
        raise ValueError("the picture has pixels that are not finite")
    if image.mode.startswith("I;16"):
        numbers /= 65535
    elif numbers.size and (numbers.min() < 0 or numbers.max() > 1):  # of any other scale
        numbers = (numbers - numbers.min()) / max(np.ptp(numbers), 1e-30)
    return Image.fromarray(numbers)
