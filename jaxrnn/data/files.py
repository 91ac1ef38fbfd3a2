"""Read files for a trained network: pictures, texts and arrays, as in its training."""

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrnn.data.arrays import as_sequences
from jaxrnn.data.builders.idx import read_idx
from jaxrnn.data.pictures import fit_picture, normalize_digit, read_picture

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
        with _files(word) as files:
            for name, path in files:
                try:
                    if path.is_file() and not path.stat().st_size:
                        raise ValueError("the file is empty")
                    for suffix, example in reader(path):
                        yield name + suffix, example
                except (OSError, ValueError, EOFError) as error:
                    reason = getattr(error, "strerror", None) or str(error)
                    yield name, ValueError(reason.replace(str(path), name).removeprefix(name))


@contextlib.contextmanager
def _files(word: str) -> Iterator[Iterator[tuple[str, Path]]]:
    """The names and paths of the files that a word stands for."""
    path = Path(word).expanduser()
    if word == "-":
        with tempfile.NamedTemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
            yield iter([("-", Path(copy.name))])
    elif path.is_dir():
        inside = sorted(one for one in path.rglob("*") if one.is_file())
        visible = [one for one in inside if not one.name.startswith(".")]
        yield ((str(one), one) for one in visible)
    else:
        yield iter([(word, path)])


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
        :func:`jaxrnn.data.pictures.normalize_digit`; otherwise they are resized.
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
            array = np.load(path, allow_pickle=False)
        elif magic[:2] in (b"\0\0", b"\x1f\x8b"):
            array, _ = read_idx(path)
        else:
            yield "", convert(path)
            return
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
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 text: {error.reason}") from error
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
        content = path.read_bytes()
        if content.startswith(b"\x93NUMPY"):
            array = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            kind, least = (np.int32, 1) if axes == 1 else (np.float32, 2)
            lines = content.decode("utf-8").replace(",", " ").splitlines()
            array = np.loadtxt(lines, kind, ndmin=least)  # type: ignore[call-overload]
        if array.ndim not in (axes, axes + 1):
            raise ValueError(f"expected {axes} or {axes + 1} axes; got shape {array.shape}")
        for index, example in enumerate([array] if array.ndim == axes else array):
            yield "" if array.ndim == axes else f"[{index}]", example

    return read
