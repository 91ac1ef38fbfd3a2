"""Read files for a trained network: pictures, texts and arrays, as in its training."""

import contextlib
import errno
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.digits.pictures import fit_picture, normalize_digit, read_picture
from jaxrnn.data.convert import as_sequences
from jaxrnn.data.readers.idx import read_idx

Example = np.ndarray | ValueError
"""Inputs of one example, (time, features) or (time,) tokens; or why it can't be read."""
Reader = Callable[[Path], Iterator[tuple[str, Example]]]
"""Yields a suffix for each example's name, ``[3]`` if the file has several, and the example."""


def read_files(words: Sequence[str], reader: Reader) -> Iterator[tuple[str, Example]]:
    """Read every file, every file of every directory, and standard input for ``-``.

    Yields:
      The name of each example, and its inputs, or a ``ValueError`` with a message of one line.
    """
    for word in words:
        try:
            for name in _names(word):
                yield from _read_file(name, reader)
        except OSError as error:
            yield word, ValueError(error.strerror or str(error))


def _names(word: str) -> list[str]:
    """The files that a word stands for, without hidden ones."""
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
                copy = opened.enter_context(tempfile.NamedTemporaryFile())
                source = sys.stdin and sys.stdin.buffer if name == "-" else path.open("rb")
                if source is None:
                    raise ValueError("standard input is closed")
                shutil.copyfileobj(source, copy)
                copy.flush()
                path = Path(copy.name)
            if path.is_file() and not path.stat().st_size:
                raise ValueError("the file is empty")
            for suffix, example in reader(path):
                yield name + suffix, example
        except (OSError, ValueError, EOFError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it does not fit in memory"
            yield name, ValueError(reason.replace(str(path), name).removeprefix(name))


def _read_text(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason}") from error
    if not text.strip():
        raise ValueError("the text is blank")
    return text


def _load_npy(path: Path) -> np.ndarray:
    """The array of a .npy file; no larger than the file, whatever its header says."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def picture_reader(
    shape: tuple[int, int, int],
    *,
    digits: bool = False,
    ink: Literal["auto", "bright", "dark"] = "auto",
    as_is: bool = False,
    as_inputs: Callable[[np.ndarray], np.ndarray] = as_sequences,
) -> Reader:
    """A reader of pictures, arrays (``.npy``) and IDX files of pictures.

    Args:
      shape: (height, width, channels) of the images that the network was trained on.
      digits: turn pictures into images like MNIST's, see
        :func:`experiments.digits.pictures.normalize_digit`; otherwise they are resized.
      ink: for digits, whether it is brighter or darker than the paper.
      as_is: take pictures as they are; they must have that height and width.
      as_inputs: turns (N, …) images into inputs of the network, (N, time, features).
    """

    def convert(picture: Any) -> Example:
        try:
            if digits and not as_is:
                image = normalize_digit(read_picture(picture), ink)
            else:
                image = fit_picture(picture, *shape, resize=not as_is)
            return as_inputs(image[None])[0]
        except ValueError as error:
            return error

    def read(path: Path) -> Iterator[tuple[str, Example]]:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            array = _load_npy(path)
        elif magic[:2] in (b"\0\0", b"\x1f\x8b"):
            array, _ = read_idx(path)
        else:
            yield "", convert(path)
            return
        height, width, channels = shape
        if array.ndim == 2 and array.shape[1] == height * width * channels:  # flattened images
            array = array.reshape(-1, height, width, channels)
        if array.ndim not in (2, 3, 4):
            raise ValueError(f"expected images; got an array of shape {array.shape}")
        one = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
        for index, picture in enumerate([array] if one else array):
            yield "" if one else f"[{index}]", convert(picture)

    return read


def text_reader(alphabet: Sequence[str]) -> Reader:
    """A reader of UTF-8 text, as tokens.

    Args:
      alphabet: the character of each token.
    """
    number = {character: token for token, character in enumerate(alphabet)}

    def read(path: Path) -> Iterator[tuple[str, Example]]:
        text = _read_text(path)
        if unknown := set(text) - number.keys():
            raise ValueError(f"the text that the network was trained on has no {min(unknown)!r}")
        yield "", np.array([number[character] for character in text], np.int32)

    return read


def array_reader(axes: int) -> Reader:
    """A reader of arrays: ``.npy`` files, or text with one time step per line.

    Args:
      axes: number of axes of one example; an array with one more holds several.
    """

    def read(path: Path) -> Iterator[tuple[str, Example]]:
        with path.open("rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
        if is_npy:
            array = _load_npy(path)
        else:
            kind, least = (np.int32, 1) if axes == 1 else (np.float32, 2)
            lines = _read_text(path).replace(",", " ").split("\n")
            array = np.loadtxt(lines, kind, ndmin=least)  # type: ignore[call-overload]
        if array.ndim not in (axes, axes + 1):
            raise ValueError(f"expected {axes} or {axes + 1} axes; got shape {array.shape}")
        for index, example in enumerate([array] if array.ndim == axes else array):
            yield "" if array.ndim == axes else f"[{index}]", example

    return read
