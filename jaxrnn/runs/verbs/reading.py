"""Files as inputs of a trained network: arrays, text and images, read as in training."""

import glob
import gzip
import logging
import math
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrnn.data.convert import is_whole
from jaxrnn.data.pictures import NotAPictureError, PictureLike, has_more_frames, picture_suffixes
from jaxrnn.data.readers.arrays import stretch
from jaxrnn.data.readers.files import read_idx
from jaxrnn.data.readers.folders import is_left_by_system, list_some

log = logging.getLogger("jaxrnn")

_IDX = re.compile(rb"\0\0[\x08\x09\x0b-\x0e][\1-\4]|\x1f\x8b")  # still gzip only if damaged

Example = np.ndarray | ValueError
"""Inputs of one example, (time, features) or (time,) tokens; or why it can't be read."""


class Reader(NamedTuple):
    """How a file, or an example of an array, becomes inputs; and whether an array is one example.

    ``convert`` raises ``ValueError`` if it can't.
    """

    convert: Callable[[Path | np.ndarray], np.ndarray]
    is_single: Callable[[np.ndarray], bool]


def image_reader(
    shape: tuple[int, int, int],
    fit: Callable[[PictureLike], np.ndarray],
    as_inputs: Callable[[np.ndarray], np.ndarray],
    array_max: int = 255,
    picture_max: int = 255,
) -> Reader:
    """Build a reader of pictures, and of arrays of images, flattened or not.

    ``fit`` turns a picture into an image of ``shape``, (height, width, channels), and ``as_inputs``
    turns (N, …) images into inputs, as in training. ``array_max`` is the pixel value that is mapped
    to 255 in arrays of integers, ``picture_max`` that in files.
    """
    size = math.prod(shape)

    def convert(picture: Path | np.ndarray) -> np.ndarray:
        if isinstance(picture, Path):
            image = stretch(fit(picture), picture_max)
        else:
            picture = picture.reshape(shape) if picture.shape == (size,) else picture
            if array_max != 255 and is_whole(picture):
                picture = stretch(picture, array_max)
            image = fit(picture)
        return as_inputs(image[None])[0]

    def is_single(array: np.ndarray) -> bool:
        color = array.ndim == 3 and array.shape[2] in (1, 3, 4)
        return color or (array.ndim < 3 and array.shape[1:] != (size,))

    return Reader(convert, is_single)


def array_reader(shape: Sequence[int], alphabet: Sequence[str] = ()) -> Reader:
    """Build a reader of arrays, of examples or of one, and of UTF-8 text.

    Text is read as tokens of an ``alphabet``; by default as numbers, with one time step per line,
    or one line of tokens. ``shape`` is that of an example, with any number of time steps.
    """
    axes, tokens = len(shape), {character: token for token, character in enumerate(alphabet)}

    def convert(item: Path | np.ndarray) -> np.ndarray:
        array = item if isinstance(item, np.ndarray) else parse(item.read_text("utf-8-sig"))
        if array.ndim != axes or not array.size:
            raise ValueError(f"expected an array of {axes} axes, or one more; got {array.shape}")
        return array

    def parse(text: str) -> np.ndarray:
        if not text.strip():
            raise ValueError("the text is blank")
        if not alphabet:
            return _read_table(text.splitlines(), shape[1:])
        if unknown := set(text) - tokens.keys():
            raise ValueError(f"the text that the network was trained on has no {min(unknown)!r}")
        return np.array([tokens[character] for character in text], np.int32)

    return Reader(convert, lambda array: array.ndim <= axes)


def _read_table(lines: Sequence[str], features: Sequence[int]) -> np.ndarray:
    """Read lines of numbers or, without features, tokens: one per line, or all on one.

    Fields are separated by semicolons, tabs, commas or spaces, whichever comes first in this list.
    """
    dtype, expected = (np.float32, "numbers") if features else (np.int32, "integers")
    width = math.prod(features) if features or len(lines) > 1 else None
    expected += f", {width} in a line" * (width is not None)
    rows = []
    for number, line in enumerate(lines, start=1):
        separator = next((mark for mark in ";\t," if mark in line), None)
        words = [line if line.strip() else "?"]  # loadtxt would skip a blank line
        with suppress(ValueError):
            row = np.loadtxt(words, dtype, comments=None, delimiter=separator, ndmin=1)
            if len(row) == (width or len(row)):
                rows.append(row)
        if len(rows) < number:
            raise ValueError(f"line {number}: expected {expected}; got {line!r}")
    return np.stack(rows) if features else np.concatenate(rows)


def read_files(words: Sequence[str], reader: Reader) -> Iterator[dict[str, Example]]:
    """Read every file, every file of every directory, and standard input for ``-``.

    Yields the examples of each file by name: inputs or, if they can't be read, a ``ValueError``.
    If pictures are read, other files in directories are skipped.
    """
    several = []
    for word in words:
        names, skipped = _files_of(word), []
        for name in names:
            examples, path = _read_file(name, reader), Path(name)
            is_other = isinstance(examples.get(name), NotAPictureError)
            if is_other and name != word and path.suffix.lower() not in picture_suffixes():
                skipped.append(name)
                continue
            if path.is_file() and has_more_frames(path):
                several.append(name)
            yield examples
        if skipped:
            log.warning("skipped %s: not pictures", list_some(skipped))
        if names == skipped:
            kind = "pictures" if skipped else "files"
            yield {word: ValueError(f"the directory contains no {kind}")}
    if several:
        log.warning("read only the first page or frame of %s", list_some(several))


def _files_of(word: str) -> list[str]:
    """Return a file, or the files in a directory except those of operating systems."""
    if not Path(word).is_dir():
        return [word]
    inside = map(Path, sorted(glob.glob("**", root_dir=word, recursive=True)))  # no hidden files
    kept = [path for path in inside if not any(map(is_left_by_system, map(Path, path.parts)))]
    return [str(path) for name in kept if (path := Path(word, name)).is_file()]


def _read_file(name: str, reader: Reader) -> dict[str, Example]:
    path = Path(name)
    with tempfile.NamedTemporaryFile() as copy:
        try:
            if name == "-" or path.is_fifo():  # which can be read only once
                copy.write(sys.stdin.buffer.read() if name == "-" else path.read_bytes())
                copy.flush()
                path = Path(copy.name)
            array = _load_array(path)
            if array is None or reader.is_single(array):
                return {name: reader.convert(path if array is None else array)}
            return {
                f"{name}[{index}]": _converted(item, reader) for index, item in enumerate(array)
            }
        except (OSError, ValueError, EOFError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it does not fit in memory"
            kind = NotAPictureError if isinstance(error, NotAPictureError) else ValueError
            return {name: kind(reason.replace(str(path), name).removeprefix(name))}


def _converted(array: np.ndarray, reader: Reader) -> Example:
    try:
        return reader.convert(array)
    except ValueError as error:
        return error


def _load_array(path: Path) -> np.ndarray | None:
    """Load a .npy file, or an IDX file, possibly gzipped; None for other files."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":  # mapped, so that its header can't make it larger than the file
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if magic[:2] == b"\x1f\x8b":
        with gzip.open(path) as unpacked, suppress(OSError, EOFError, zlib.error):
            magic = unpacked.read(6)
    return read_idx(path) if _IDX.match(magic) else None
