"""Labelled images in IDX files, ``.npz`` files and directories of images."""

import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from jaxrnn.data.convert import as_column, convert
from jaxrnn.data.pictures import open_picture
from jaxrnn.data.readers.arrays import Arrays, Images
from jaxrnn.data.readers.idx import read_idx

IDX_NAMES = {
    "train images": "train-images-idx3-ubyte.gz",
    "train labels": "train-labels-idx1-ubyte.gz",
    "test images": "t10k-images-idx3-ubyte.gz",
    "test labels": "t10k-labels-idx1-ubyte.gz",
}
_ROLE = re.compile(r"(?:^|[-_.])(train|t10k|test)[-_.]?(images|labels)[-_.]")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def find_idx(folder: Path) -> dict[str, Path]:
    """Find the IDX file of each role, such as ``train images``, in any common naming scheme."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a directory; it should contain the archives")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if (match := _ROLE.search(path.name.lower())) and path.is_file():
            role = f"{match[1].replace('t10k', 'test')} {match[2]}"
            other = found.setdefault(role, path)
            if other.name.removesuffix(".gz") != path.name.removesuffix(".gz"):
                raise ValueError(
                    f"{folder} has several files of {role}: {other.name}, {path.name}; keep one "
                    "set of files in a directory"
                )
    for role, name in IDX_NAMES.items():
        if role not in found and (role.startswith("train") or any("test" in r for r in found)):
            raise FileNotFoundError(f"{folder} lacks {name}")
    return found


def read_idx_files(paths: Mapping[str, Path], class_names: tuple[str, ...] = ()) -> Images:
    """Read the IDX file of each role; by default, classes are named by their labels."""
    arrays = {}
    for role, path in paths.items():
        array = read_idx(path)
        if array.ndim == 3 and path.name.lower().startswith("emnist"):  # stored transposed
            array = array.transpose(0, 2, 1)
        arrays[role] = array[:, 0] if array.ndim == 2 else array  # QMNIST: the class comes first
    splits = [split for split in ("train", "test") if f"{split} images" in arrays]
    pairs = {split: (arrays[f"{split} images"], arrays[f"{split} labels"]) for split in splits}
    return _check(next(iter(paths.values())).parent, pairs, class_names)


def read_npz(path: Path) -> Images:
    """Read ``x_train, y_train, x_test, y_test`` of a ``.npz`` file, as Keras stores datasets."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := {"x_train", "y_train"} - set(file.files):
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            splits = [split for split in ("train", "test") if f"x_{split}" in file.files]
            pairs = {split: (file[f"x_{split}"], file[f"y_{split}"]) for split in splits}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as Keras stores datasets: {error}") from error
    return _check(path, pairs)


def find_images(folder: Path) -> list[tuple[str, str, Path]]:
    """Find images with their split (``train`` if there are no such directories) and class."""
    splits = [name for name in ("train", "test") if (folder / name).is_dir()]
    return [
        (split or "train", path.parent.name, path)
        for split in splits or [""]
        for path in sorted((folder / split).glob("*/*"))
        if path.suffix.lower() in _SUFFIXES
    ]


def read_images(found: Sequence[tuple[str, str, Path]], folder: Path) -> Images:
    """Read the images that :func:`find_images` found in a folder."""
    if not found:
        raise ValueError(f"{folder} has no images in directories named by class")
    class_names = sorted({name for _, name, _ in found})
    pairs = {}
    for split, group in itertools.groupby(found, lambda image: image[0]):
        _, names, paths = zip(*group, strict=True)
        images = [_read_image(path) for path in paths]
        mode = "RGB" if any(image.mode == "RGB" for image in images) else "L"
        if len(sizes := {image.size for image in images}) > 1:
            raise ValueError(f"the {split} images of {folder} differ in size: {sorted(sizes)[:2]}")
        pixels = np.stack([np.asarray(image.convert(mode)) for image in images])
        pairs[split] = pixels, np.searchsorted(class_names, names)
    return _check(folder, pairs, tuple(class_names))


def _read_image(path: Path) -> Image:
    """Read an image in 8-bit gray or color."""
    try:
        image = open_picture(path)
        if image.mode == "F":
            raise ValueError("its pixels have more than 8 bits")
        return image
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _check(
    where: Path, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...] = ()
) -> Images:
    """Check images and labels; labels without names may start at 0 or 1."""
    arrays = {}
    for split, (images, labels) in pairs.items():
        labels = as_column(convert("labels", labels))
        if images.dtype.kind in "iuf" and (images.astype(np.uint8) == images).all():
            images = images.astype(np.uint8, copy=False)
        if (
            (images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size)
            or (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu")
            or not 0 <= labels.min() <= labels.max() < 2**16
        ):
            raise ValueError(
                f"{where}: expected {split} images (N, height, width) uint8 and labels (N,), class "
                f"indices from 0; got {images.shape} {images.dtype} and {labels.shape} "
                f"{labels.dtype} from {labels.min(initial=0)} to {labels.max(initial=0)}"
            )
        arrays[split] = images, labels.astype(np.int32)
    lowest, highest = (f(f(labels) for _, labels in arrays.values()) for f in (min, max))
    first = min(lowest, 1) if highest >= len(names) else 0
    names = names if highest < len(names) else tuple(map(str, range(first, highest + 1)))
    splits = {split: [Arrays(ims, ls - first)] for split, (ims, ls) in arrays.items()}
    return Images(splits, names)
