"""Files as inputs of a trained network: arrays, text and images, read as in training."""

import glob
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrnn.data.pictures import PictureLike
from jaxrnn.data.readers.idx import read_idx

Example = np.ndarray | ValueError
"""Inputs of one example, (time, features) or (time,) tokens; or why it can't be read."""


class Reader(NamedTuple):
    """How files become inputs of a network."""

    convert: Callable[[Path | np.ndarray], np.ndarray]
    """Converts a file, or an example of an array, to inputs; raises ``ValueError`` if it can't."""
    is_single: Callable[[np.ndarray], bool]
    """Whether an array is one example instead of several."""


def image_reader(
    shape: tuple[int, int, int],
    fit: Callable[[PictureLike], np.ndarray],
    as_inputs: Callable[[np.ndarray], np.ndarray],
) -> Reader:
    """Build a reader of pictures, and of arrays of images, flattened or not.

    ``fit`` turns a picture into an image of ``shape`` (height, width, channels), as in
    training, and ``as_inputs`` turns (N, …) images into inputs of the network.
    """
    size = math.prod(shape)

    def convert(picture: Path | np.ndarray) -> np.ndarray:
        if isinstance(picture, np.ndarray) and picture.shape == (size,):
            picture = picture.reshape(shape)
        return as_inputs(fit(picture)[None])[0]

    def is_single(array: np.ndarray) -> bool:
        color = array.ndim == 3 and array.shape[2] in (1, 3, 4)
        return color or (array.ndim < 3 and array.shape[1:] != (size,))

    return Reader(convert, is_single)


def array_reader(axes: int, alphabet: Sequence[str] = ()) -> Reader:
    """Build a reader of arrays with ``axes`` axes, or one more for several, and of UTF-8 text.

    Text is read as tokens of an ``alphabet``; by default as numbers, with one time step per line.
    """
    tokens = {character: token for token, character in enumerate(alphabet)}

    def convert(item: Path | np.ndarray) -> np.ndarray:
        array = item if isinstance(item, np.ndarray) else parse(item.read_text("utf-8"))
        if array.ndim != axes or not array.size:
            raise ValueError(f"expected an array of {axes} axes, or one more; got {array.shape}")
        return array

    def parse(text: str) -> np.ndarray:
        if not text.strip():
            raise ValueError("the text is blank")
        if not alphabet:
            lines, dtype = text.replace(",", " ").splitlines(), "i4" if axes == 1 else "f4"
            return np.loadtxt(lines, dtype, ndmin=1 if axes == 1 else 2)
        if unknown := set(text) - tokens.keys():
            raise ValueError(f"the text that the network was trained on has no {min(unknown)!r}")
        return np.array([tokens[character] for character in text], np.int32)

    return Reader(convert, lambda array: array.ndim <= axes)


def read_files(words: Sequence[str], reader: Reader) -> Iterator[dict[str, Example]]:
    """Read every file, every file of every directory, and standard input for ``-``.

    Yields the examples of each file by name, of which ``.npy`` and IDX files may hold several: the
    inputs or, if they can't be read, a ``ValueError``.
    """
    for word in words:
        names = [word]
        if Path(word).is_dir():
            inside = sorted(glob.glob("**", root_dir=word, recursive=True))  # no hidden files
            names = [str(path) for name in inside if (path := Path(word, name)).is_file()]
            if not names:
                yield {word: ValueError("the directory has no files in it")}
        for name in names:
            yield _read_file(name, reader)


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
            examples: dict[str, Example] = {}
            for index, example in enumerate(array):
                try:
                    examples[f"{name}[{index}]"] = reader.convert(example)
                except ValueError as error:
                    examples[f"{name}[{index}]"] = error
            return examples
        except (OSError, ValueError, EOFError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it does not fit in memory"
            return {name: ValueError(reason.replace(str(path), name).removeprefix(name))}


def _load_array(path: Path) -> np.ndarray | None:
    """Load a .npy or IDX file, which may be compressed by gzip; None for other files."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":  # mapped, so that its header can't make it larger than the file
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    return read_idx(path) if magic[:2] in (b"\0\0", b"\x1f\x8b") else None
