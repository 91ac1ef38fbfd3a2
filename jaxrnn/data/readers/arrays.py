"""Labelled images as arrays, kept in files and memory-mapped."""

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

_FORMAT = 2  # raise it when the same files are read or kept differently


class Arrays(NamedTuple):
    """Images (N, height, width[, channels]) and labels (N,) int32."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Images:
    """Labelled images of some splits.

    Attributes:
      splits: for each split, such as ``train``, pieces to be read one after the other, once.
      class_names: the name of each class, in order.
      sha256: of the decompressed content of each IDX file.
    """

    splits: Mapping[str, Iterable[Arrays]]
    class_names: tuple[str, ...]
    sha256: frozenset[str] = frozenset()


Kept = tuple[dict[str, Arrays], tuple[str, ...]]
"""The arrays of each split, and the name of each class."""


def keep(data_dir: Path, name: str, identity: str, read: Callable[[], Images]) -> Kept:
    """Memory-map the arrays of a dataset, which is read only if they are not kept yet.

    They are kept in ``<data_dir>/jaxrnn/<name>-<digest of the identity>``, which is complete or
    absent and may be deleted at any time; if that can't be written, in :func:`temporary_data_dir`.

    Raises:
      OSError: neither can be written.
    """
    digest = hashlib.sha256(f"{_FORMAT} {identity}".encode("utf-8", "surrogateescape")).hexdigest()
    parents = data_dir, temporary_data_dir()
    place, fallback = (parent / "jaxrnn" / f"{name}-{digest[:16]}" for parent in parents)
    for kept in (place, fallback):
        with contextlib.suppress(OSError, ValueError):  # absent or damaged
            return _map(kept)
    images = read()
    with contextlib.suppress(OSError):  # read-only or full
        return _write(place, images)
    return _write(fallback, read())


def temporary_data_dir() -> Path:
    """Return a directory of this user for data that can't be kept where it should be."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"tensorflow_datasets-{user}")


def concatenate(pieces: Iterable[Arrays]) -> Arrays:
    """Join pieces, in memory."""
    return Arrays(*map(np.concatenate, zip(*pieces, strict=True)))


def _map(place: Path) -> Kept:
    class_names, splits = json.loads((place / "arrays.json").read_text("utf-8"))

    def map_array(name: str, dtype: str, shape: list[int]) -> np.ndarray:
        return np.asarray(np.memmap(place / name, dtype, "r", shape=tuple(shape)))

    arrays = {split: Arrays(*(map_array(*one) for one in files)) for split, files in splits.items()}
    return arrays, tuple(class_names)


def _write(place: Path, images: Images) -> Kept:
    """Write the arrays elsewhere, piece by piece, and rename them at the end."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()  # which, unlike a temporary directory, others may read
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
