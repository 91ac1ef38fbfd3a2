"""Labelled images as arrays, cached in files and memory-mapped."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_FORMAT = 2  # increment it when files are read or cached differently


class Arrays(NamedTuple):
    """Images (N, height, width[, channels]) and labels (N,) int32."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Images:
    """Labelled images of some splits.

    Attributes:
      splits: the pieces of each split, such as ``train``, which can be iterated over once.
      class_names: the name of each class, in order.
      sha256: of the decompressed content of each IDX file.
    """

    splits: Mapping[str, Iterable[Arrays]]
    class_names: tuple[str, ...]
    sha256: frozenset[str] = frozenset()


Cached = tuple[dict[str, Arrays], tuple[str, ...]]
"""The arrays of each split, and the class names."""


def cache(data_dir: Path, name: str, identity: str, read: Callable[[], Images]) -> Cached:
    """Memory-map the cached arrays of a dataset, which is read if there are none.

    The cache is ``<data_dir>/jaxrnn/<name>-<digest of the identity>``, which is complete or absent
    and may be deleted at any time; if it can't be written, it is in :func:`fallback_data_dir`.

    Raises:
      OSError: neither directory can be written.
    """
    digest = hashlib.sha256(f"{_FORMAT} {identity}".encode("utf-8", "surrogateescape")).hexdigest()
    parents = data_dir, fallback_data_dir()
    place, fallback = (parent / "jaxrnn" / f"{name}-{digest[:16]}" for parent in parents)
    for directory in (place, fallback):
        with contextlib.suppress(OSError, ValueError):  # absent or damaged
            return _map(directory)
    images = read()
    with contextlib.suppress(OSError):  # read-only or full
        return _write(place, images)
    return _write(fallback, read())


def fallback_data_dir() -> Path:
    """Return the user's fallback directory for data whose own can't be written."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"tensorflow_datasets-{user}")


def concatenate(pieces: Iterable[Arrays]) -> Arrays:
    """Join pieces, in memory."""
    return Arrays(*map(np.concatenate, zip(*pieces, strict=True)))


def _map(place: Path) -> Cached:
    class_names, splits = json.loads((place / "arrays.json").read_text("utf-8"))

    def map_array(name: str, dtype: str, shape: list[int]) -> np.ndarray:
        return np.asarray(np.memmap(place / name, dtype, "r", shape=tuple(shape)))

    arrays = {name: Arrays(*(map_array(*file) for file in files)) for name, files in splits.items()}
    return arrays, tuple(class_names)


def _write(place: Path, images: Images) -> Cached:
    """Write the arrays piece by piece to a temporary directory, then rename it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()  # unlike a temporary directory, readable by other users
        splits = {
            split: _write_split(new, split, pieces) for split, pieces in images.splits.items()
        }
        (new / "arrays.json").write_text(json.dumps([images.class_names, splits]), "utf-8")
        try:
            new.rename(place)
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                return _map(place)  # another process was faster
            shutil.rmtree(place)  # it is damaged
            new.rename(place)
    return _map(place)


def _write_split(folder: Path, split: str, pieces: Iterable[Arrays]) -> list[Any]:
    """Write the arrays of a split; return the file name, type and shape of each."""
    count, names = 0, [f"{split}-{kind}" for kind in Arrays._fields]
    with (folder / names[0]).open("wb") as images, (folder / names[1]).open("wb") as labels:
        for piece in pieces:
            images.write(np.ascontiguousarray(piece.images).data)
            labels.write(np.ascontiguousarray(piece.labels).data)
            count += len(piece.labels)
        for file in (images, labels):
            file.flush()
            os.fsync(file.fileno())
    shapes = [(array.dtype.str, [count, *array.shape[1:]]) for array in piece]
    return [(name, *shape) for name, shape in zip(names, shapes, strict=True)]
