"""Files as inputs of a trained network: arrays, texts and images, read as in its training."""

import contextlib
import errno
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.data.convert import as_sequences
from jaxrnn.data.pictures import Picture
from jaxrnn.data.readers.idx import read_idx

Example = np.ndarray | ValueError
"""Inputs of one example, (time, features) or (time,) tokens; or why it can't be read."""


class Reader(NamedTuple):
    """How files become inputs of a network."""

    items: Callable[[Path], Iterable[tuple[str, Any]]]
    """Yields each item of a file with a suffix for its name, ``[3]`` if there are several."""
    convert: Callable[[Any], np.ndarray]
    """Turns an item into inputs, (time, features) or (time,) tokens."""


def image_reader(
    shape: tuple[int, int, int],
    fit: Callable[[Picture], np.ndarray],
    as_inputs: Callable[[np.ndarray], np.ndarray] = as_sequences,
) -> Reader:
    """Build a reader of pictures, and of arrays of images in ``.npy`` and IDX files.

    Args:
      shape: (height, width, channels) of the images that the network was trained on.
      fit: turns a picture into such an image.
      as_inputs: turns (N, …) images into inputs of the network, (N, time, features).
    """

    def items(path: Path) -> Iterable[tuple[str, Any]]:
        array = _load_array(path)
        if array is None:
            return [("", path)]
        if array.ndim == 2 and array.shape[1] == math.prod(shape):  # flattened images
            array = array.reshape(-1, *shape)
        if array.ndim not in (2, 3, 4):
            raise ValueError(f"expected images; got an array of shape {array.shape}")
        return _numbered(array, array.ndim < 4 and (array.ndim < 3 or array.shape[-1] in (1, 3, 4)))

    return Reader(items, lambda picture: as_inputs(fit(picture)[None])[0])


def array_reader(axes: int, alphabet: Sequence[str] = ()) -> Reader:
    """Build a reader of arrays: ``.npy`` and IDX files, or UTF-8 text.

    Args:
      axes: number of axes of one example; an array with one more holds several.
      alphabet: the character of each token, to read text as tokens; by default text is numbers,
        with one time step per line.
    """
    tokens = {character: token for token, character in enumerate(alphabet)}

    def items(path: Path) -> Iterable[tuple[str, Any]]:
        array = _load_array(path)
        if array is None and alphabet:
            text = _read_text(path)
            if unknown := set(text) - tokens.keys():
                raise ValueError(
                    f"the text that the network was trained on has no {min(unknown)!r}"
                )
            array = np.array([tokens[character] for character in text], np.int32)
        elif array is None:
            lines = _read_text(path).replace(",", " ").split("\n")
            array = np.loadtxt(lines, np.int32 if axes == 1 else np.float32, ndmin=axes)  # type: ignore[call-overload]
        if array.ndim not in (axes, axes + 1):
            raise ValueError(f"expected {axes} or {axes + 1} axes; got shape {array.shape}")
        return _numbered(array, array.ndim == axes)

    return Reader(items, np.asarray)


def _load_array(path: Path) -> np.ndarray | None:
    """Load a .npy or IDX file, the latter compressed by gzip or not; None for other files."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":  # mapped, it is no larger than the file, whatever its header says
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return read_idx(path, dtype=None)[0] if magic[:2] in (b"\0\0", b"\x1f\x8b") else None


def _read_text(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason}") from error
    if not text.strip():
        raise ValueError("the text is blank")
    return text


def _numbered(array: np.ndarray, single: bool) -> Iterable[tuple[str, np.ndarray]]:
    return [("", array)] if single else ((f"[{row}]", item) for row, item in enumerate(array))


def read_files(words: Sequence[str], reader: Reader) -> Iterator[tuple[str, Example]]:
    """Read every file, every file of every directory, and standard input for ``-``.

    Yields:
      The name of each example, and its inputs or, if they can't be read, a ``ValueError`` with a
      message of one line.
    """
    for word in words:
        try:
            for name in _names(word):
                yield from _read_file(name, reader)
        except OSError as error:
            yield word, ValueError(error.strerror or str(error))


def _names(word: str) -> list[str]:
    """List the files that a word stands for, without hidden ones."""
    folder = Path(word)
    if word == "-" or not folder.is_dir():
        return [word]
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = sorted(str(path) for path in inside if not any(p.startswith(".") for p in path.parts))
    if not names:
        raise OSError(errno.ENOENT, "the directory has no files in it")
    return [str(folder / name) for name in names]


def _read_file(name: str, reader: Reader) -> Iterator[tuple[str, Example]]:
    path = Path(name)
    with contextlib.ExitStack() as opened:
        try:
            if name == "-" or path.is_fifo():  # which can be read only once
                if name == "-" and sys.stdin is None:
                    raise ValueError("standard input is closed")
                stream = sys.stdin.buffer if name == "-" else opened.enter_context(path.open("rb"))
                copy = opened.enter_context(tempfile.NamedTemporaryFile())
                shutil.copyfileobj(stream, copy)
                copy.flush()
                path = Path(copy.name)
            if path.is_file() and not path.stat().st_size:
                raise ValueError("the file is empty")
            for suffix, item in reader.items(path):
                try:
                    yield name + suffix, reader.convert(item)
                except ValueError as error:
                    yield name + suffix, error
        except (OSError, ValueError, EOFError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it does not fit in memory"
            yield name, ValueError(reason.replace(str(path), name).removeprefix(name))
