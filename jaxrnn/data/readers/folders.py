"""Directories of images with one subdirectory for each class."""

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from jaxrnn.data.pictures import FORMATS, has_more_frames, open_picture, picture_suffixes
from jaxrnn.data.readers.arrays import Images, label_images

log = logging.getLogger("jaxrnn")

_SPLITS = {"train": "train(ing)?", "validation": "val(id(ation)?)?|dev", "test": "test(ing)?"}
_LEFT_BY_SYSTEMS = {
    *("__macosx", "network trash folder", "temporary items", "icon\r"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "lost+found"),
    "__pycache__",
}


Found = tuple[list[tuple[str, str, Path]], list[Path]]
"""Split, class and path of each image in a directory, and the paths that were skipped."""


def find_images(folder: Path) -> Found:
    """Find images in a directory that has one subdirectory for each class, at any depth below it.

    Directories named after splits may be above or just below those of classes; all other images
    belong to ``train``. Class names are normalized to Unicode's NFC.

    Raises:
      ValueError: there are no images, a class has none, or a name is not UTF-8.
      OSError: a directory can't be read.
    """
    images: list[tuple[str, str, Path]] = []
    skipped: list[Path] = []
    classes = _directories(folder, skipped)
    splits = [directory for directory in classes if _split_of(directory.name)]
    if splits:
        skipped += [directory for directory in classes if directory not in splits]
        classes = [below for directory in splits for below in _directories(directory, skipped)]
    for directory in classes:
        name = unicodedata.normalize("NFC", directory.name)
        if name != name.encode(errors="ignore").decode():
            raise ValueError(f"the name of the directory {directory} is not UTF-8; rename it")
        if not (paths := [*_pictures_below(directory, skipped)]):
            formats = ", ".join(FORMATS)
            raise ValueError(
                f"{directory}: the class {name!r} has no picture in one of the formats {formats}"
            )
        for path in paths:
            split = path.relative_to(folder).parts[0 if splits else 1]
            images.append((_split_of(split) or "train", name, path))
    if not images:
        inside = " in its directories named after splits" if splits else ""
        raise ValueError(f"{folder} has no images in directories named after classes{inside}")
    # A single class may be, for example, the top directory of an archive.
    is_single = len({name for _, name, _ in images}) == 1
    if is_single and all(path.parent != classes[0] for *_, path in images):
        where = f"only in directories below it; give {classes[0]}/"
        raise ValueError(f"{folder} has a single class, with images {where}")
    images.sort(key=lambda image: (list(_SPLITS).index(image[0]), image[2]))
    return images, sorted(skipped)


def _split_of(name: str) -> str | None:
    """Return the split that a directory is named after, if any."""
    for split, names in _SPLITS.items():
        if re.fullmatch(f"({names})([-_ ]?(set|data|images))?", name, re.IGNORECASE):
            return split
    return None


def _directories(folder: Path, skipped: list[Path]) -> list[Path]:
    """List the directories in a directory; everything else is skipped."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        is_kept = path.is_dir() and not is_left_by_system(path)
        (found if is_kept else skipped).append(path)
    return found


def _pictures_below(directory: Path, skipped: list[Path]) -> Iterator[Path]:
    """Yield the pictures in a directory and those below it, except links to directories."""
    for path in directory.iterdir():
        is_directory = path.is_dir()
        if is_left_by_system(path) or (is_directory and path.is_symlink()):
            skipped.append(path)
        elif is_directory:
            yield from _pictures_below(path, skipped)
        elif path.suffix.lower() in picture_suffixes():
            yield path
        else:
            skipped.append(path)


def is_left_by_system(path: Path) -> bool:
    """Return whether a file or directory is hidden, or was created by an operating system."""
    return path.name.startswith(".") or path.name.casefold() in _LEFT_BY_SYSTEMS


def read_images(found: Found, folder: Path, background: str | None = None) -> Images:
    """Read the images that :func:`find_images` found in a folder, in 8-bit gray or color."""
    paths, skipped = found
    if skipped:
        names = list_some([path.relative_to(folder) for path in skipped])
        log.warning("%s: skipped %s: not pictures in the directory of a class", folder, names)
    if several := [path for *_, path in paths if has_more_frames(path)]:
        names = list_some([path.relative_to(folder) for path in several])
        log.warning("%s: read only the first page or frame of %s", folder, names)
    images: dict[str, list[tuple[str, Image]]] = {}
    for split, name, path in paths:
        try:
            image = open_picture(path, background)
            if image.mode == "F":
                raise ValueError("its pixels have more than 8 bits")
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        images.setdefault(split, []).append((name, image))
    is_color = any(image.mode == "RGB" for part in images.values() for _, image in part)
    pairs = {}
    for split, part in images.items():
        if len(sizes := {image.size for _, image in part}) > 1:
            raise ValueError(f"the {split} images of {folder} differ in size: {sorted(sizes)[:2]}")
        pixels = [np.asarray(image.convert("RGB" if is_color else "L")) for _, image in part]
        pairs[split] = np.stack(pixels), np.array([name for name, _ in part])
    return label_images(folder, pairs)


def list_some(names: Sequence[object]) -> str:
    """List the first of some names, and say how many there are."""
    return ", ".join(map(str, names[:5])) + f", … ({len(names)} in all)" * (len(names) > 5)
