"""Readers: labelled images by dataset name, as memory-mapped arrays."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ImageColor

from jaxrnn.data.readers.arrays import Images, Stored, cache, fallback_data_dir
from jaxrnn.data.readers.files import FAMILY, content_sha256, find_idx, read_idx_files, read_npz
from jaxrnn.data.readers.folders import find_images, read_images

log = logging.getLogger("jaxrnn")

_Path = str | os.PathLike[str] | None
# As in train and train[:48000]; tfds refuses train[:].
_ROWS = re.compile(r"([\w-]+)(?:\[(?!:\])(\d*):(\d*)\])?")


def read_split(
    name: str, split: str, data_dir: _Path, archives: _Path, background: str | None = None
) -> tuple[Stored, tuple[str, ...], int]:
    """Read a split, its class names, and its ``pixel_max``; see :class:`jaxrnn.Source`."""
    data_dir = Path(data_dir) if data_dir else _default_data_dir()
    if found := _find_files(name, data_dir, Path(archives) if archives else None, background):
        images = cache(data_dir, *found)
        sizes = {part: len(arrays.labels) for part, arrays in images.splits.items()}
        parts = _find_parts(name, split, sizes)
    else:
        from jaxrnn.data.readers.builders import decode, find_parts, open_builder  # slow to import

        builder = open_builder(name, data_dir)
        parts = find_parts(name, split, builder.info.splits)
        used = sorted({part for part, _ in parts})  # other splits may be large
        info = Path(builder.data_dir, "dataset_info.json")
        key, read = "-".join([builder.name, *used]), partial(decode, builder, *used)
        images = cache(data_dir, key, [info], read)
    arrays = [Stored(*(array[rows] for array in images.splits[part])) for part, rows in parts]
    if len(arrays) > 1:
        arrays = [Stored(*map(np.concatenate, zip(*arrays, strict=True)))]
    return arrays[0], images.class_names, images.pixel_max


def _find_files(
    name: str, data_dir: Path, archives: Path | None, background: str | None
) -> tuple[str, Iterable[Path], Callable[[], Images]] | None:
    """Return how to :func:`cache` a dataset of the MNIST family or of files; None for tfds's."""
    key, path = name.lower(), Path(name).expanduser()
    if archives is not None:
        if key not in (known := ["idx", *FAMILY]):
            raise ValueError(f"archives are read for {', '.join(known)} only, not for {name!r}")
        idx = find_idx(archives)
        return key, idx.values(), partial(_read_archives, idx, key)
    if key == "idx":
        raise ValueError("name 'idx' requires archives (--archives), a directory of IDX files")
    if key in FAMILY:
        return key, [], partial(_read_family, key, data_dir)
    if path.suffix.lower() == ".npz":
        return path.stem, [path], partial(read_npz, path)
    if name.startswith((".", "~", "/")) or name.endswith("/") or ("/" in name and path.is_dir()):
        if not path.is_dir():
            raise FileNotFoundError(f"there is no directory {path}")
        images, key = find_images(path), path.resolve().name
        if background is not None:
            key += "-on-" + "-".join(map(str, ImageColor.getrgb(background)[:3]))
        files = [file for *_, file in images[0]]
        return key, files, partial(read_images, images, path, background)
    return None


def _read_archives(idx: Mapping[str, Path], name: str) -> Images:
    """Read IDX files, as a dataset of the MNIST family if they are given as one."""
    if name not in FAMILY:
        return read_idx_files(idx)
    from jaxrnn.data.readers.builders import BUILDERS  # slow to import

    builder = BUILDERS[name]
    images = read_idx_files(idx, builder.CLASS_NAMES)
    if set(builder.CONTENT_SHA256) - set(map(content_sha256, idx.values())):
        folder = next(iter(idx.values())).parent
        log.warning("the files in %s are not those published as %s", folder, name)
    return images


def _read_family(name: str, data_dir: Path) -> Images:
    """Read a dataset of the MNIST family as it was published."""
    from jaxrnn.data.readers.builders import decode, open_builder  # slow to import

    builder = open_builder(name, data_dir)
    return builder.images or decode(builder, *builder.info.splits)


def _find_parts(name: str, split: str, sizes: Mapping[str, int]) -> list[tuple[str, slice]]:
    """Convert a tfds split string to slices of splits of these sizes."""
    if (found := _ROWS.fullmatch(split)) and found[1] in sizes:
        start, stop = int(found[2] or 0), int(found[3] or sizes[found[1]])
        if start < stop <= sizes[found[1]]:
            return [(found[1], slice(start, stop))]
    import tensorflow_datasets as tfds  # for all others; slow to import

    from jaxrnn.data.readers.builders import find_parts

    infos = {part: tfds.core.SplitInfo(part, [size], 0) for part, size in sizes.items()}
    return find_parts(name, split, infos)


def _default_data_dir() -> Path:
    """Return tfds's data_dir or, if it can't be created, a temporary directory."""
    directory = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        directory = directory.expanduser()
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        temporary = fallback_data_dir()
        log.warning("%s cannot be created; preparing data in %s instead", directory, temporary)
        return temporary
    return directory
