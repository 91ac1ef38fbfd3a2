"""Labelled images as arrays, cached in files and memory-mapped."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_FORMAT = 6  # increment it when files are read or cached differently


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
      splits: the pieces of each split, which can be iterated over once; cached, its arrays.
      class_names: the name of each class, in order.
      pixel_max: the pixel value that was mapped to 255; see :class:`jaxrnn.Source`.
    """

    splits: Mapping[str, Any]
    class_names: tuple[str, ...]
    pixel_max: int = 255


def cache(data_dir: Path, name: str, files: Iterable[Path], read: Callable[[], Images]) -> Images:
    """Memory-map the cached arrays of a dataset, which is read if there are none.

    The cache is ``<data_dir>/jaxrnn/<name>-<digest>``, which is complete or absent and may be
    deleted at any time; if it can't be written, it is in :func:`fallback_data_dir`. The digest
    depends on the path, size, mtime and ctime of each of ``files``; the ctime reveals changes that
    preserve size and mtime.

    Raises:
      OSError: neither directory can be written.
    """
    stats = [(path.absolute(), path.stat()) for path in files]
    identity = [(os.fsencode(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats]
    digest = hashlib.sha256(repr((_FORMAT, identity)).encode()).hexdigest()[:16]
    parents = data_dir, fallback_data_dir()
    folder, fallback = (parent / "jaxrnn" / f"{name}-{digest}" for parent in parents)
    for directory in (folder, fallback):
        with contextlib.suppress(OSError, ValueError):  # absent or damaged
            return _map(directory)
        shutil.rmtree(directory, ignore_errors=True)
    images = read()
    with contextlib.suppress(OSError):  # read-only or full
        return _write(folder, images)
    return _write(fallback, read())


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
    return np.frombuffer(b"".join(row.digest() for row in hashes), np.uint8).reshape(-1, 16)
