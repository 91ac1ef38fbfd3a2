"""Readers: labelled images by the name of their dataset, as memory-mapped arrays."""

import logging
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds

from jaxrnn.data.readers.arrays import Arrays, Images, Kept, concatenate, keep
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
    """Read a split and the names of its classes, preparing the dataset first where necessary.

    Args:
      name, split, data_dir, archives: see :class:`jaxrnn.Source`.

    Raises:
      ValueError, ImportError, OSError: see :class:`jaxrnn.Source`.
    """
    data_dir = Path(data_dir) if data_dir else _default_data_dir()
    if kept := _read_files(name, data_dir, Path(archives) if archives else None):
        splits, class_names = kept
        sizes = {part: tfds.core.SplitInfo(part, [len(splits[part].labels)], 0) for part in splits}
        parts = _find_parts(name, split, sizes)
    else:
        builder = open_builder(name, data_dir)
        parts = _find_parts(name, split, builder.info.splits)
        identity, splits = identify([Path(builder.data_dir, "dataset_info.json")]), {}
        for part in {part: None for part, _ in parts}:  # other splits may be large
            key, read = f"{builder.name}-{part}", partial(decode, builder, part)
            kept_part, class_names = keep(data_dir, key, identity, read)
            splits |= kept_part
    arrays = [Arrays(*(array[rows] for array in splits[part])) for part, rows in parts]
    return arrays[0] if len(arrays) == 1 else concatenate(arrays), class_names


def _read_files(name: str, data_dir: Path, archives: Path | None) -> Kept | None:
    """Read a dataset of the MNIST family or of files; None if it is one of tfds's."""
    path = Path(name).expanduser()
    if family := FAMILY.get(name.lower()):
        return _read_family(family, data_dir, archives)
    if name.lower() == "idx":
        if archives is None:
            raise ValueError("name 'idx' needs archives (--archives), a directory of IDX files")
        idx = find_idx(archives)
        return keep(data_dir, "idx", identify(idx.values()), partial(read_idx_files, idx))
    if archives is not None:
        known = ", ".join(["idx", *FAMILY])
        raise ValueError(f"archives are read for {known} only, not for {name!r}")
    if path.suffix == ".npz":
        return keep(data_dir, path.stem, identify([path]), partial(read_npz, path))
    if len(path.parts) > 1 and path.is_dir():
        found = find_images(path)
        paths = [path for classes in found.values() for paths in classes.values() for path in paths]
        identity = f"{[*map(list, found.values())]} {identify(paths)}"
        return keep(data_dir, path.name, identity, partial(read_images, found, path))
    return None


def _read_family(family: type[LabelledImages], data_dir: Path, archives: Path | None) -> Kept:
    """Read a dataset of the MNIST family, or other archives under its name.

    Given archives are read every time, as only their content says whether they are those published.
    """
    given, published = None, family.checksums()
    if archives is not None:
        given = read_idx_files(find_idx(archives), family.CLASS_NAMES)
        if any(published[role] not in given.sha256.get(role, ()) for role in published):
            log.warning("the files in %s are not those published as %s", archives, family.name)
            return keep(data_dir, family.name, str(given.sha256), lambda: given)

    def read() -> Images:
        images = given
        if images is None and family.ARCHIVES:
            images = read_idx_files(find_idx(family.ARCHIVES), family.CLASS_NAMES)
        builder = open_builder(family.name, data_dir, images)
        return builder.images or decode(builder, *builder.info.splits)

    return keep(data_dir, family.name, str(published), read)


def _find_parts(
    name: str, split: str, splits: Mapping[str, tfds.core.SplitInfo]
) -> list[tuple[str, slice]]:
    """Interpret a tfds split string as parts of the splits of a dataset."""
    try:
        found = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"split {split!r} of {name!r}: {first_line(error)}") from error
    parts = [(part.splitname, slice(part.from_, part.to)) for part in found]
    if not any(range(splits[part].num_examples)[rows] for part, rows in parts):
        raise ValueError(f"split {split!r} of {name!r} has no examples")
    return parts


def _default_data_dir() -> Path:
    """Return tfds's data_dir or, if that can't be made, a temporary directory of this user."""
    directory = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        directory = directory.expanduser()
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        user = os.getuid() if hasattr(os, "getuid") else ""
        temporary = Path(tempfile.gettempdir(), f"tensorflow_datasets-{user}")
        log.warning("%s cannot be made; preparing data in %s instead", directory, temporary)
        return temporary
    return directory
