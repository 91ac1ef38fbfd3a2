"""Labelled images as arrays, kept as ``.npy`` files and memory-mapped."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import platformdirs

_FORMAT = 1  # raise it when the same files are read differently


class Arrays(NamedTuple):
    """Images (N, height, width[, channels]) and labels (N,) int32."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Images:
    """Labelled images of some splits.

    Attributes:
      splits: for each split, such as ``train``, a function that reads its examples in pieces.
      class_names: the name of each class, in order.
      sha256: of the IDX file of each role, decompressed and as it is.
    """

    splits: Mapping[str, Callable[[], Iterable[Arrays]]]
    class_names: tuple[str, ...]
    sha256: Mapping[str, tuple[str, str]] = field(default_factory=dict)


Kept = tuple[dict[str, Arrays], tuple[str, ...]]
"""The arrays of each split, and the name of each class."""


def keep(data_dir: Path, name: str, identity: str, read: Callable[[], Images]) -> Kept:
    """Memory-map the arrays of a dataset, which is read only if they are not kept yet.

    They are kept in ``<data_dir>/jaxrnn/<name>-<digest of the identity>``, which is complete or
    absent and may be deleted at any time; if that can't be written, in the user's cache directory,
    else in memory.
    """
    digest = hashlib.sha256(f"{_FORMAT} {identity}".encode("utf-8", "surrogateescape")).hexdigest()
    cache = Path(platformdirs.user_cache_dir("jaxrnn"), "data")
    places = [parent / f"{name}-{digest[:16]}" for parent in (data_dir / "jaxrnn", cache)]
    for place in places:
        with contextlib.suppress(OSError, ValueError):  # absent or damaged
            return _map(place)
    images = read()
    for place in places:
        with contextlib.suppress(OSError):  # read-only or full
            return _write(place, images)
    logging.getLogger("jaxrnn").warning(
        "%s is held in memory, as neither %s nor %s can be written", name, *places
    )
    in_memory = {split: concatenate(read_pieces()) for split, read_pieces in images.splits.items()}
    return in_memory, images.class_names


def concatenate(pieces: Iterable[Arrays]) -> Arrays:
    """Join pieces, in memory."""
    return Arrays(*map(np.concatenate, zip(*pieces, strict=True)))


def _map(place: Path) -> Kept:
    class_names, splits = json.loads((place / "names.json").read_text("utf-8"))
    arrays = {
        split: Arrays(*(np.asarray(np.load(path, mmap_mode="r")) for path in _paths(place, split)))
        for split in splits
    }
    return arrays, tuple(class_names)


def _paths(place: Path, split: str) -> list[Path]:
    return [place / f"{split}-{kind}.npy" for kind in Arrays._fields]


def _write(place: Path, images: Images) -> Kept:
    """Write the arrays elsewhere, piece by piece, and rename them at the end."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()  # which, unlike a temporary directory, others may read
        for split, read_pieces in images.splits.items():
            _write_split(_paths(new, split), read_pieces())
        names = json.dumps([images.class_names, list(images.splits)])
        (new / "names.json").write_text(names, "utf-8")
        try:
            new.rename(place)
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                return _map(place)  # another process was faster
            shutil.rmtree(place)  # it is damaged
            new.rename(place)
    return _map(place)


def _write_split(paths: list[Path], pieces: Iterable[Arrays]) -> None:
    count = 0
    with paths[0].open("wb") as images, paths[1].open("wb") as labels:
        for piece in pieces:
            for file, array in zip((images, labels), piece, strict=True):
                if not count:
                    _write_header(file, array, 0)
                file.write(np.ascontiguousarray(array).data)
            count += len(piece.labels)
        for file, array in zip((images, labels), piece, strict=True):
            file.seek(0)  # numpy's header has room for the final size
            _write_header(file, array, count)
            file.flush()
            os.fsync(file.fileno())


def _write_header(file: IO[bytes], piece: np.ndarray, size: int) -> None:
    kind, shape = np.lib.format.dtype_to_descr(piece.dtype), (size, *piece.shape[1:])
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
