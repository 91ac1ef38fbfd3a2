"""Pictures: files and arrays of any size and color, read as images of a given size."""

import functools
import warnings
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageColor, ImageOps

from jaxrnn.data.convert import is_whole

PIXELS = 50_000_000  # larger pictures are not decoded
FORMATS = (  # others may run external programs, or are recognized by file name only
    *("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "AVIF", "ICO", "JPEG2000", "PCX", "QOI"),
    *("SGI", "TIFF", "WEBP"),
)
_TRANSPARENT = (
    "the picture has transparent pixels; remove the transparency, or train with --background COLOR"
)
_HEIC = (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf")

PictureLike = Path | BinaryIO | bytes | np.ndarray
"""Path, open binary file or content of a picture in one of ``FORMATS``, of which the first frame is
read; or a (height, width) or uint8 (height, width, channels) array."""


class NotAPictureError(ValueError):
    """A file in none of the supported formats."""


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Return the file extensions of ``FORMATS``, in lower case."""
    endings = Image.registered_extensions().items()
    formats = (*FORMATS, "MPO")  # MPO files are several JPEGs
    return frozenset(suffix for suffix, kind in endings if kind in formats)


def has_more_frames(path: Path) -> bool:
    """Return whether a file is a picture of several pages or frames."""
    quiet = warnings.catch_warnings(action="ignore")
    with quiet, suppress(Exception), Image.open(path, formats=FORMATS) as image:
        # In an MPO file, cameras store previews or other exposures of the same photograph.
        return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    return False  # not a picture, or damaged after the first frame


def read_picture(picture: PictureLike, background: str | None = None) -> np.ndarray:
    """Read a picture in grayscale, (height, width) float32 from 0 for black to 1 for white.

    See :func:`open_picture` for what is read and raised.
    """
    image = open_picture(picture, background)
    if image.mode == "F":
        return np.array(image)
    return np.asarray(image.convert("L")) / np.float32(255)


def fit_picture(
    picture: PictureLike, shape: tuple[int, int, int], *, resize: bool = True,
    background: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Read and resize a picture; one that has the size already keeps its pixels exactly.

    Args:
      picture, background: see :func:`open_picture`.
      shape: (height, width, channels) of the result, with 1 channel for gray and 3 for RGB; the
        aspect ratio is not preserved.
      resize: if False, the picture must already have that size, and pixels must be from 0 to 1, or
        integers from 0 to 255.

    Returns:
      uint8, (height, width) or (height, width, 3).

    Raises:
      ValueError, OSError: as :func:`open_picture`; or a wrong size or number of channels.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB); got {channels}")
    image = open_picture(picture, background, stretch=resize)
    if not resize and image.size != (width, height):
        size = f"{image.width} × {image.height}"
        raise ValueError(f"the picture must be {width} pixels wide and {height} high; got {size}")
    if image.mode == "F":
        image = Image.fromarray(np.round(255 * np.asarray(image)).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def open_picture(
    picture: PictureLike, background: str | None = None, *, stretch: bool = True
) -> Image.Image:
    """Open a picture, rotated by its EXIF orientation, in mode L, RGB or F (values 0 to 1).

    Args:
      picture: a path, a binary file, its content, or an array.
      background: color for transparent pixels, which are an error by default.
      stretch: rescale pixels of more than 8 bits whose range is neither 0 to 1 nor 0 to 255; if
        False, they are an error.

    Raises:
      ValueError: the picture is of another format, damaged, transparent, or larger than ``PIXELS``.
      OSError: the file cannot be opened.
    """
    with warnings.catch_warnings(action="ignore"):  # about odd files, and sizes refused here
        if isinstance(picture, np.ndarray):
            image = _from_array(picture)
        else:
            picture = BytesIO(picture) if isinstance(picture, bytes) else picture
            opened = picture.open("rb") if isinstance(picture, Path) else nullcontext(picture)
            with opened as file:
                image = _decode(file)
        wide = image.mode[0] in "IF"  # more than 8 bits
        return _as_floats(image, stretch) if wide else _as_opaque(image, background)


def _decode(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
        pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = PIXELS + 1
    except Exception as error:  # Pillow may raise anything for other files
        file.seek(0)
        if file.read(16)[4:].startswith(_HEIC):
            raise ValueError("HEIC pictures are not supported; convert to JPEG or PNG") from error
        formats = ", ".join(FORMATS)
        raise NotAPictureError(f"not a picture in one of the formats {formats}") from error
    if pixels > PIXELS:
        raise ValueError(f"the picture has over {PIXELS:,} pixels; shrink it first")
    try:
        return ImageOps.exif_transpose(image)  # this decodes it
    except Exception as error:
        raise ValueError("the picture is damaged or incomplete") from error


def _from_array(array: np.ndarray) -> Image.Image:
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.size and array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)
    if array.ndim == 2 and array.dtype != np.uint8:
        array = array.astype(np.float32)
    is_color = array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8
    if not array.size or not (array.ndim == 2 or is_color):
        expected = "(height, width), or (height, width, 3) uint8"
        raise ValueError(f"a picture must be {expected}; got {array.shape} {array.dtype}")
    return Image.fromarray(array)


def _as_opaque(image: Image.Image, background: str | None) -> Image.Image:
    """Convert an 8-bit picture to gray or RGB, and composite it over the background."""
    gray = image.mode in ("1", "L", "LA")
    layers = image.convert("RGBA") if image.has_transparency_data else None
    if layers and np.asarray(layers)[..., 3].min(initial=255) < 255:
        if background is None:
            raise ValueError(_TRANSPARENT)
        color = ImageColor.getrgb(background)[:3]
        image = Image.new("RGBA", image.size, (*color, 255))
        image.alpha_composite(layers)
        gray = gray and len({*color}) == 1
    return image.convert("L" if gray else "RGB")


def _as_floats(image: Image.Image, stretch: bool) -> Image.Image:
    """Convert a picture of more than 8 bits to floats from 0 to 1."""
    numbers = np.asarray(image).astype(np.float32)
    if (numbers == image.info.get("transparency")).any():
        raise ValueError(_TRANSPARENT)
    if not np.isfinite(numbers).all():
        raise ValueError("the picture has pixels that are not finite")
    least, most = numbers.min(initial=1), numbers.max(initial=0)
    if image.mode.startswith("I;16"):
        numbers /= 65535
    elif least >= 0 and 1 < most <= 255 and is_whole(numbers):
        numbers /= 255
    elif least < 0 or most > 1:
        if not stretch:
            expected = "numbers from 0 to 1, or whole numbers from 0 to 255"
            raise ValueError(f"pixels must be {expected}; got {least:g} to {most:g}")
        numbers = (numbers - least) / max(np.ptp(numbers), 1e-30)
    return Image.fromarray(numbers)
