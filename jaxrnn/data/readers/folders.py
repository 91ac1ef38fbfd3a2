"""Directories of images with one subdirectory for each class."""

import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from PIL.Image import Image

from jaxrnn.data.pictures import FORMATS, has_more_frames, open_picture, picture_suffixes
from jaxrnn.data.readers.arrays import Images
from jaxrnn.data.readers.labelled import check_classes, label_images

log = logging.getLogger("jaxrnn")

_SPLITS = {
    "train": re.compile("train(ing)?([-_ ]?(set|data|images))?", re.IGNORECASE),
    "validation": re.compile("(val|valid|validation|dev)([-_ ]?(set|data|images))?", re.IGNORECASE),
    "test": re.compile("test(ing)?([-_ ]?(set|data|images))?", re.IGNORECASE),
}
_LEFT_BY_SYSTEMS = {
    *("__macosx", "network trash folder", "temporary items", "icon\r"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "lost+found"),
    "__pycache__",
}


class Found(NamedTuple):
    """Split, class and path of each image in a directory, and the paths that were skipped."""

    images: list[tuple[str, str, Path]]
    skipped: list[Path]


def find_images(folder: Path) -> Found:
    """Find images in a directory that has one subdirectory for each class, at any depth below it.

    Directories named after splits may be above or just below those of classes; all other images
    belong to ``train``. Class names are normalized to Unicode's NFC.

    Raises:
      ValueError: there are no images, a class has none, or ``train`` lacks a class.
      OSError: a directory can't be read.
    """
    skipped: list[Path] = []
    classes: list[tuple[str | None, Path]] = []
    top = _directories(folder, skipped)
    has_splits = any(_split_of(directory.name) for directory in top)
    for directory in top:
        if not has_splits:
            classes.append((None, directory))
        elif split := _split_of(directory.name):
            classes += [(split, below) for below in _directories(directory, skipped)]
        else:
            skipped.append(directory)
    images = []
    for split, directory in classes:
        name = _class_of(directory)
        paths = [*_pictures_below(directory, skipped)]
        if not paths:
            formats = ", ".join(FORMATS)
            raise ValueError(
                f"{directory}: the class {name!r} has no picture in one of the formats {formats}"
            )
        for path in paths:
            below = path.relative_to(directory).parts[:-1]
            images.append((split or _split_of(*below[:1]) or "train", name, path))
    if not images:
        where = "directories named after classes" + " inside those named after splits" * has_splits
        raise ValueError(f"{folder} has no images in {where}")
    _check_found(folder, images, classes[0][1])
    images.sort(key=lambda image: ([*_SPLITS].index(image[0]), image[2]))
    return Found(images, skipped)


def _split_of(name: str = "") -> str | None:
    """Return the split that a directory is named after, if any."""
    return next((split for split, names in _SPLITS.items() if names.fullmatch(name)), None)


def _class_of(directory: Path) -> str:
    try:
        return unicodedata.normalize("NFC", directory.name).encode().decode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of the directory {directory} is not UTF-8; rename it") from None


def _directories(folder: Path, skipped: list[Path]) -> list[Path]:
    """List the directories in a directory; everything else is skipped."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        is_kept = path.is_dir() and not is_left_by_system(path)
        (found if is_kept else skipped).append(path)
    return found


def _pictures_below(directory: Path, skipped: list[Path]) -> Iterator[Path]:
    """Yield the pictures in a directory and those below it, except links to directories."""
    suffixes = picture_suffixes()
    for name, below, files in os.walk(directory, onerror=_fail):
        inside = [Path(name, child) for child in below]
        left = [path for path in inside if is_left_by_system(path) or path.is_symlink()]
        below[:] = sorted(path.name for path in inside if path not in left)
        skipped += left
        for path in (Path(name, file) for file in sorted(files)):
            if path.suffix.lower() in suffixes and not is_left_by_system(path):
                yield path
            else:
                skipped.append(path)


def _fail(error: OSError) -> NoReturn:
    raise error


def is_left_by_system(path: Path) -> bool:
    """Return whether a file or directory is hidden, or was created by an operating system."""
    return path.name.startswith(".") or path.name.casefold() in _LEFT_BY_SYSTEMS


def _check_found(folder: Path, images: Sequence[tuple[str, str, Path]], first: Path) -> None:
    """Check the classes of each split, and that they are not one directory deeper."""
    is_single = len({name for _, name, _ in images}) == 1
    # A single class may be, for example, the top directory of an archive.
    if is_single and all(path.parent != first for *_, path in images):
        raise ValueError(
            f"{folder} has a single class, with images only in directories below it; give {first}/"
        )
    splits = sorted({split for split, *_ in images}, key=[*_SPLITS].index)
    names = {
        split: np.array([name for part, name, _ in images if part == split]) for split in splits
    }
    try:
        check_classes(names)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def read_images(found: Found, folder: Path, background: str | None = None) -> Images:
    """Read the images that :func:`find_images` found in a folder."""
    if found.skipped:
        names = list_some([path.relative_to(folder) for path in found.skipped])
        log.warning("%s: skipped %s: not pictures in the directory of a class", folder, names)
    if several := [path for *_, path in found.images if has_more_frames(path)]:
        names = list_some([path.relative_to(folder) for path in several])
        log.warning("%s: read only the first page or frame of %s", folder, names)
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in dict.fromkeys(split for split, *_ in found.images):
        images = [_read_image(path, background) for part, _, path in found.images if part == split]
        if len(sizes := {image.size for image in images}) > 1:
            raise ValueError(f"the {split} images of {folder} differ in size: {sorted(sizes)[:2]}")
        mode = "RGB" if any(image.mode == "RGB" for image in images) else "L"
        labels = np.array([name for part, name, _ in found.images if part == split])
        pairs[split] = np.stack([np.asarray(image.convert(mode)) for image in images]), labels
    if any(pixels.ndim == 4 for pixels, _ in pairs.values()):  # then all splits are in color
        for split, (pixels, labels) in pairs.items():
            if pixels.ndim == 3:
                pairs[split] = np.repeat(pixels[..., None], 3, axis=-1), labels
    return label_images(folder, pairs)


def list_some(names: Sequence[object]) -> str:
    """List the first of some names, and say how many there are."""
    return ", ".join(map(str, names[:5])) + f", … ({len(names)} in all)" * (len(names) > 5)


def _read_image(path: Path, background: str | None) -> Image:
    """Read an image in 8-bit gray or color."""
    try:
        image = open_picture(path, background)
        if image.mode == "F":
            raise ValueError("its pixels have more than 8 bits")
        return image
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
