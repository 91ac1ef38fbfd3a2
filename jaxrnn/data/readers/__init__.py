"""Readers: labelled images by dataset name, as memory-mapped arrays."""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds

from jaxrnn.data.readers.arrays import Arrays, Cached, Images, cache, concatenate, fallback_data_dir
from jaxrnn.data.readers.builders import FAMILY, LabelledImages, decode, open_builder
from jaxrnn.data.readers.files import (
    find_idx,
    find_images,
    identify,
    read_idx_files,
    read_images,
    read_npz,
)
from jaxrnn.files import first_line

log = logging.getLogger("jaxrnn")

_Path = str | os.PathLike[str] | None


def read_split(
    name: str, split: str, data_dir: _Path, archives: _Path
) -> tuple[Arrays, tuple[str, ...]]:
    """Read a split and its class names; see :class:`jaxrnn.Source`."""
    data_dir = Path(data_dir) if data_dir else _default_data_dir()
    if cached := _read_whole(name, data_dir, Path(archives) if archives else None):
        splits, class_names = cached
        sizes = {part: tfds.core.SplitInfo(part, [len(splits[part].labels)], 0) for part in splits}
        parts = _find_parts(name, split, sizes)
    else:
        builder = open_builder(name, data_dir)
        parts = _find_parts(name, split, builder.info.splits)
        identity, splits = identify([Path(builder.data_dir, "dataset_info.json")]), {}
        for part in {part for part, _ in parts}:  # others may be large
            read = partial(decode, builder, part)
            cached_part, class_names = cache(data_dir, f"{builder.name}-{part}", identity, read)
            splits |= cached_part
    arrays = [Arrays(*(array[rows] for array in splits[part])) for part, rows in parts]
    return arrays[0] if len(arrays) == 1 else concatenate(arrays), class_names


def _read_whole(name: str, data_dir: Path, archives: Path | None) -> Cached | None:
    """Read a dataset of the MNIST family or of files; None if it is one of tfds's."""
    path, family = Path(name).expanduser(), FAMILY.get(name.lower())
    if archives is not None and (family or name.lower() == "idx"):
        idx, key = find_idx(archives), name.lower()
        return cache(data_dir, key, identify(idx.values()), partial(_read_archives, idx, family))
    if name.lower() == "idx":
        raise ValueError("name 'idx' needs archives (--archives), a directory of IDX files")
    if archives is not None:
        known = ", ".join(["idx", *FAMILY])
        raise ValueError(f"archives are read for {known} only, not for {name!r}")
    if family:
        return cache(data_dir, family.name, "published", partial(_read_family, family, data_dir))
    if path.suffix == ".npz":
        return cache(data_dir, path.stem, identify([path]), partial(read_npz, path))
    if len(path.parts) > 1 and path.is_dir():
        found = find_images(path)
        identity = identify(image for _, _, image in found)
        return cache(data_dir, path.name, identity, partial(read_images, found, path))
    return None


def _read_archives(idx: Mapping[str, Path], family: type[LabelledImages] | None) -> Images:
    """Read IDX files, as a dataset of the MNIST family if one is given."""
    images = read_idx_files(idx, family.CLASS_NAMES if family else ())
    if family and set(family.CONTENT_SHA256) - images.sha256:
        folder = next(iter(idx.values())).parent
        log.warning("the files in %s are not those published as %s", folder, family.name)
    return images


def _read_family(family: type[LabelledImages], data_dir: Path) -> Images:
    """Read a dataset of the MNIST family as it was published."""
    builder = open_builder(family.name, data_dir)
    return builder.images or decode(builder, *builder.info.splits)


def _find_parts(
    name: str, split: str, splits: Mapping[str, tfds.core.SplitInfo]
) -> list[tuple[str, slice]]:
    """Convert a tfds split string to slices of a dataset's splits."""
    try:
        found = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"split {split!r} of {name!r}: {first_line(error)}") from error
    parts = [(part.splitname, slice(part.from_, part.to)) for part in found]
    if not any(range(splits[part].num_examples)[rows] for part, rows in parts):
        raise ValueError(f"split {split!r} of {name!r} has no examples")
    return parts


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
