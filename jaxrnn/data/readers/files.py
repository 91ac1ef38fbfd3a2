"""Labelled images in IDX files, the format of the MNIST family, and in ``.npz`` files.

An IDX file is a four-byte magic number (two zero bytes, the element type, the rank), one big-endian
32-bit size per axis, and then the elements in C order.

References:
  Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", section "File
  formats".
"""

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxrnn.data.readers.arrays import Images, label_images
from jaxrnn.files import first_line

ELEMENT_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
IDX_NAMES = {
    "train images": "train-images-idx3-ubyte.gz",
    "train labels": "train-labels-idx1-ubyte.gz",
    "test images": "t10k-images-idx3-ubyte.gz",
    "test labels": "t10k-labels-idx1-ubyte.gz",
}
FAMILY = ("mnist", "fashion_mnist", "kmnist")  # known without importing tfds
_ROLE = re.compile(r"(?:^|[-_.])(train|t10k|test)[-_.]?(images|labels)[-_.]")


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
    return label_images(next(iter(paths.values())).parent, pairs, class_names)


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file, compressed by gzip or not.

    Raises:
      OSError: the file can't be read.
      ValueError: the file is not IDX, truncated, or longer than its header says.
    """
    content = _read(path)
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in ELEMENT_TYPES:
        raise ValueError(f"{path} is not an IDX file: its magic number is 0x{magic.hex()}")
    kind, start = np.dtype(ELEMENT_TYPES[magic[2]]), 4 + 4 * magic[3]
    sizes = content[4:start]
    shape = [int.from_bytes(sizes[at : at + 4]) for at in range(0, len(sizes), 4)]
    size = start + math.prod(shape) * kind.itemsize
    if len(content) != size:
        what = "is truncated" if len(content) < size else "has data after its end"
        raise ValueError(f"{path} {what}: expected {size} bytes; got {len(content)}")
    array = np.frombuffer(content, kind, offset=start).reshape(shape)
    return array.astype(kind.newbyteorder("="), copy=False)


def content_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the content of a file, decompressed."""
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: Path) -> bytes:
    """Read a file, compressed by gzip or not."""
    content = path.read_bytes()
    try:
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a valid gzip file: {error}") from error
    except EOFError as error:
        raise ValueError(f"{path} is truncated") from error


def read_npz(path: Path) -> Images:
    """Read ``x_train, y_train, x_test, y_test`` of a ``.npz`` file, as Keras stores datasets."""
    try:
        with path.open("rb") as content:
            file = np.load(content, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it is a single array")
            if missing := {"x_train", "y_train"} - set(file.files):
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            splits = [split for split in ("train", "test") if f"x_{split}" in file.files]
            pairs = {split: (file[f"x_{split}"], file[f"y_{split}"]) for split in splits}
    except Exception as error:  # damaged files raise errors of any kind
        reason = first_line(error)
        raise ValueError(f"{path} is not a dataset as Keras stores it: {reason}") from error
    return label_images(path, pairs)
