"""Contents: labelled images read from IDX files, ``.npz`` files and directories of images."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxrnn.data.convert import as_column, convert
from jaxrnn.data.readers.idx import read_idx

MAX_BYTES = 2**30  # of one file; EMNIST's largest has 547 MB
_ROLE = re.compile(r"(?:^|[-_.])(train|t10k|test)[-_.]?(images|labels)[-_.]")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


@dataclass(frozen=True)
class Contents:
    """Labelled images of some splits.

    Attributes:
      splits: for ``train`` and, if there are any, ``test``: images (N, height, width[, channels])
        uint8, and labels (N,) int32.
      class_names: the name of each class, in order.
      sha256: of each array's file, decompressed.
      paths: the file of each array.
    """

    splits: Mapping[str, tuple[np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A short name of everything that is prepared from these contents."""
        digest = hashlib.sha256("\n".join(self.class_names).encode("utf-8", "replace"))
        for split, arrays in sorted(self.splits.items()):
            for array in arrays:
                digest.update(f"{split} {array.shape}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()[:12]


def read_idx_folder(folder: Path, names: tuple[str, ...] = ()) -> Contents:
    """Read the IDX files of a directory, whatever naming scheme they follow.

    Args:
      folder: its files contain ``train`` or ``test`` (``t10k``) and ``images`` or ``labels`` in
        their names, and are compressed by gzip or not.
      names: of the classes; by default the labels themselves.

    Raises:
      FileNotFoundError: the directory or a file is missing.
      ValueError: there are several files of a kind, or one is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a directory; it should contain the archives")
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if (match := _ROLE.search(path.name.lower())) and path.is_file():
            role = f"{match[1].replace('t10k', 'test')} {match[2]}"
            found.setdefault(role, {}).setdefault(path.name.removesuffix(".gz"), path)
    for role, paths in found.items():
        if len(paths) > 1:
            raise ValueError(
                f"{folder} has several files of {role}: {', '.join(paths)}; keep one set of files "
                "in a directory"
            )
    has_test = any(role.startswith("test") for role in found)
    for role, name in STANDARD_NAMES.items():
        if role not in found and (has_test or role.startswith("train")):
            raise FileNotFoundError(f"{folder} lacks {name}")
    return read_idx_files(
        {role: next(iter(paths.values())) for role, paths in found.items()}, names
    )


STANDARD_NAMES = {
    "train images": "train-images-idx3-ubyte.gz",
    "train labels": "train-labels-idx1-ubyte.gz",
    "test images": "t10k-images-idx3-ubyte.gz",
    "test labels": "t10k-labels-idx1-ubyte.gz",
}


def read_idx_files(paths: Mapping[str, Path], names: tuple[str, ...] = ()) -> Contents:
    """Read the IDX file of each role, such as ``train images``; see :func:`read_idx_folder`."""
    arrays, sha256 = {}, {}
    for role, path in paths.items():
        images = role.endswith("images")
        arrays[role], sha256[role] = read_idx(
            path,
            dtype=np.uint8 if images else None,
            rank=3 if images else None,
            max_bytes=MAX_BYTES,
        )
        if images and path.name.lower().startswith("emnist"):  # which is stored transposed
            arrays[role] = np.ascontiguousarray(arrays[role].transpose(0, 2, 1))
        if not images and arrays[role].ndim == 2:  # QMNIST: the class, and where it comes from
            arrays[role] = arrays[role][:, 0]
    splits = {role.split()[0] for role in arrays}
    pairs = {
        split: (arrays[f"{split} images"], arrays[f"{split} labels"]) for split in sorted(splits)
    }
    where = next(iter(paths.values())).parent
    return _contents(pairs, names, str(where), sha256=sha256, paths=dict(paths))


def read_npz(path: Path) -> Contents:
    """Read ``x_train, y_train, x_test, y_test`` of a ``.npz`` file, as Keras stores data sets.

    Raises:
      OSError: the file can't be read.
      ValueError: it is damaged, or has other arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {"x_train", "y_train"} - set(file.files)
            if missing:
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            pairs = {
                split: (file[f"x_{split}"], file[f"y_{split}"])
                for split in ("train", "test")
                if f"x_{split}" in file.files
            }
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}") from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as Keras stores data sets: {error}") from error
    return _contents(pairs, (), str(path))


def read_image_folder(folder: Path) -> Contents:
    """Read images in one directory for each class, below ``train`` and ``test`` or without these.

    Raises:
      OSError: a file can't be read.
      ValueError: there are no images, or they differ in size.
    """
    split_folders = {name: folder / name for name in ("train", "test") if (folder / name).is_dir()}
    split_folders = split_folders or {"train": folder}
    classes = sorted(
        {path.name for split in split_folders.values() for path in split.iterdir() if path.is_dir()}
    )
    pairs = {}
    for name, split in split_folders.items():
        images, labels = [], []
        for label, kind in enumerate(classes):
            paths = sorted((split / kind).glob("*")) if (split / kind).is_dir() else []
            for path in paths:
                if path.suffix.lower() in _SUFFIXES:
                    images.append(_read_image(path))
                    labels.append(label)
        if not images:
            raise ValueError(f"{split} has no images in directories named by class")
        if any(image.ndim == 3 for image in images):  # some are in color
            images = [one if one.ndim == 3 else np.stack([one] * 3, -1) for one in images]
        sizes = {image.shape[:2] for image in images}
        if len(sizes) > 1:
            raise ValueError(f"the images in {split} differ in size: {sorted(sizes)[:2]}")
        pairs[name] = np.stack(images), np.array(labels, np.int32)
    return _contents(pairs, tuple(classes), str(folder))


def _read_image(path: Path) -> np.ndarray:
    """(height, width) gray or (height, width, 3) color."""
    from PIL import Image  # here, as it takes a while to import

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip them to 255
                raise ValueError(f"its pixels are of mode {image.mode}; expected 8 bits")
            gray = image.mode in ("1", "L", "LA")
            return np.asarray(image.convert("L" if gray else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _contents(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    names: tuple[str, ...],
    where: str,
    **about: Mapping[str, object],
) -> Contents:
    """Check images and labels, and count labels from 0."""
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, (images, labels) in pairs.items():
        images = np.asarray(images)
        labels = as_column(convert("labels", labels), None)
        if images.dtype != np.uint8 and images.size and images.dtype.kind in "iuf":
            whole = images.astype(np.uint8)
            images = whole if (whole == images).all() else images
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or 0 in images.shape[1:]
            or labels.shape != images.shape[:1]
        ):
            raise ValueError(
                f"{where}: expected {split} images (N, height, width) uint8 and labels (N,); got "
                f"{images.shape} {images.dtype} and {labels.shape}"
            )
        if labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
            raise ValueError(f"{where}: {split} labels must be at least one class index")
        splits[split] = images, labels.astype(np.int32)
    shapes = {images.shape[1:] for images, _ in splits.values()}
    if len(shapes) > 1:
        raise ValueError(f"{where}: training and test images differ in size: {sorted(shapes)}")
    first = min(int(labels.min()) for _, labels in splits.values())
    last = max(int(labels.max()) for _, labels in splits.values())
    if last >= 2**16:
        raise ValueError(f"{where}: labels go up to {last}; they must be class indices")
    if not names or last >= len(names):
        first = min(first, 1)  # some count from 1
        names = tuple(str(number) for number in range(first, last + 1))
        splits = {split: (images, labels - first) for split, (images, labels) in splits.items()}
    return Contents(splits, names, **about)  # type: ignore[arg-type]
