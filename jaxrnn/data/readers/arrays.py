"""Labelled images as arrays: checked, converted, cached in files and memory-mapped."""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.data.convert import as_column, channels_last, convert, is_whole, read_labels

log = logging.getLogger("jaxrnn")

_FORMAT = 7  # increment it when files are read or cached differently


class Arrays(NamedTuple):
    """Images (N, height, width[, channels]) and labels (N,) int32."""

    images: np.ndarray
    labels: np.ndarray


class Stored(NamedTuple):
    """Cached :class:`Arrays`, and a digest of each example, (N, 16) bytes."""

    images: np.ndarray
    labels: np.ndarray
    digests: np.ndarray


class Images(NamedTuple):
    """Labelled images.

    Attributes:
      splits: for each split, an iterable of pieces, to be consumed once; cached, its arrays.
      class_names: the name of each class, in order.
      pixel_max: the pixel value that was mapped to 255; see :class:`jaxrnn.Source`.
    """

    splits: Mapping[str, Any]
    class_names: tuple[str, ...]
    pixel_max: int = 255


def label_images(
    where: Path, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...] = ()
) -> Images:
    """Check and convert the images and labels of each split, the training split first.

    Labels are class names or indices; indices without names may start at 0 or 1. White is taken
    from the training images: 1 if no pixel exceeds 1, their maximum if all pixels are integers
    below 128, as in images of 16 or 100 gray levels, and otherwise 255.

    Raises:
      ValueError: images or labels have an unsupported type, shape or range.
    """
    splits = {}
    pairs = {
        split: (channels_last(images) if images.ndim == 4 else images, labels)
        for split, (images, labels) in pairs.items()
    }
    labels = {split: np.asarray(pair[1]) for split, pair in pairs.items()}
    try:
        if any(array.dtype.kind in "SU" for array in labels.values()):
            for split, array in labels.items():
                array = array if array.dtype.kind == "S" else array.astype(str)
                labels[split], names = read_labels(array, names, array.shape, None, [])
        for split, (images, _) in pairs.items():
            labels[split] = as_column(convert("labels", labels[split]))
            _check_arrays(split, images, labels[split])
        first, last = 0, max(int(array.max()) for array in labels.values())
        if last >= len(names):
            first = min(1, *(int(array.min()) for array in labels.values()))
            names = tuple(map(str, range(first, last + 1)))
        images = next(iter(pairs.values()))[0]
        most, pixel_max = images.max(), 255
        if 0 < most <= 1 or (1 < most < 128 and is_whole(images)):
            pixel_max = math.ceil(most)
        for split, (images, _) in pairs.items():
            pixels = stretch(images, pixel_max, f"the {split} images have ")
            splits[split] = [Arrays(pixels, labels[split].astype(np.int32) - first)]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if pixel_max != 255:
        log.warning("%s: pixels from 0 to %s are stretched to 0 … 255", where, pixel_max)
    return Images(splits, names, pixel_max)


def _check_arrays(split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if (
        (images.dtype.kind not in "biuf" or images.ndim not in (3, 4) or not images.size)
        or (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu")
        or not 0 <= labels.min() <= labels.max() < 2**16
    ):
        raise ValueError(
            f"expected {split} images (N, height, width[, channels]) and labels (N,), class names "
            f"or indices from 0 to 65535; got {images.shape} {images.dtype} and {labels.shape} "
            f"{labels.dtype} from {labels.min(initial=0)} to {labels.max(initial=0)}"
        )


def stretch(images: np.ndarray, pixel_max: int, what: str = "") -> np.ndarray:
    """Convert images to uint8, mapping ``pixel_max`` to 255.

    Raises:
      ValueError: a pixel is out of range, or not an integer although ``pixel_max`` is 255; the
        message begins with ``what``.
    """
    least, most = images.min(), images.max()
    if not 0 <= least <= most <= pixel_max or (pixel_max == 255 and not is_whole(images)):
        expected = f"numbers from 0 to {pixel_max}, the maximum of the training images"
        if pixel_max == 255:
            expected = "whole numbers from 0 to 255, or numbers from 0 to 1 in every split"
        found = f"{what}{images.dtype} values from {least:g} to {most:g}"
        raise ValueError(f"{found}; expected {expected}")
    if pixel_max == 255:
        return images.astype(np.uint8, copy=False)
    return np.round(images * np.float32(255) / np.float32(pixel_max)).astype(np.uint8)


def cache(data_dir: Path, name: str, files: Iterable[Path], read: Callable[[], Images]) -> Images:
    """Memory-map the cached arrays of a dataset, which is read if there are none.

    The cache is ``<data_dir>/jaxrnn/<name>-<digest>``, which is complete or absent and may be
    deleted at any time, or in :func:`fallback_data_dir`; raises ``OSError`` if neither can be
    written. The digest depends on the path, size, mtime and ctime of each of ``files``; the ctime
    reveals changes that preserve size and mtime.
    """
    stats = [(path.absolute(), path.stat()) for path in files]
    identity = [(os.fsencode(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats]
    digest = hashlib.sha256(repr((_FORMAT, identity)).encode()).hexdigest()[:16]
    parents = data_dir, fallback_data_dir()
    folders = [parent / "jaxrnn" / f"{name}-{digest}" for parent in parents]
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):  # absent or damaged
            return _map(folder)
        shutil.rmtree(folder, ignore_errors=True)
    images = read()
    with contextlib.suppress(OSError):  # read-only or full
        return _write(folders[0], images)
    return _write(folders[1], read())


def fallback_data_dir() -> Path:
    """Return the user's fallback directory for data whose own can't be written."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"tensorflow_datasets-{user}")


def _map(folder: Path) -> Images:
    class_names, pixel_max, splits = json.loads((folder / "arrays.json").read_text("utf-8"))
    for split, files in splits.items():
        maps = [np.memmap(folder / name, dtype, "r", 0, (*shape,)) for name, dtype, shape in files]
        splits[split] = Stored(*map(np.asarray, maps))
    return Images(splits, tuple(class_names), pixel_max)


def _write(folder: Path, images: Images) -> Images:
    """Write the arrays piece by piece to a temporary directory, then rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()  # unlike a temporary directory, readable by other users
        splits = {name: _write_split(new, name, pieces) for name, pieces in images.splits.items()}
        about = json.dumps([images.class_names, images.pixel_max, splits])
        (new / "arrays.json").write_text(about, "utf-8")
        with contextlib.suppress(OSError):  # another process was faster
            new.rename(folder)
    return _map(folder)


def _write_split(folder: Path, split: str, pieces: Iterable[Arrays]) -> list[Any]:
    """Write the arrays of a split; return the file name, type and shape of each."""
    count, names = 0, [f"{split}-{kind}" for kind in Stored._fields]
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context((folder / name).open("wb")) for name in names]
        for piece in pieces:
            images, labels = map(np.ascontiguousarray, piece)
            stored = images, labels, _digests(images, labels)
            for file, array in zip(files, stored, strict=True):
                file.write(array.data)
            count += len(labels)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    arrays = zip(names, stored, strict=True)
    return [(name, array.dtype.str, [count, *array.shape[1:]]) for name, array in arrays]


def _digests(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a digest of each image and its label; the shape of the image is ignored."""
    flat = images.reshape(len(images), -1)
    rows = zip(flat.view(np.uint8), labels[:, None].view(np.uint8), strict=True)
    hashes = (hashlib.blake2b(row.data, salt=label, digest_size=16) for row, label in rows)
    digests = b"".join(example.digest() for example in hashes)
    return np.frombuffer(digests, np.uint8).reshape(-1, 16)
