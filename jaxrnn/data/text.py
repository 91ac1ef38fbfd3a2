"""Text to predict character by character, with compression programs as baselines."""

import gzip
import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from jaxrnn.data.readable import Datasets
from jaxrnn.data.splits import Split
from jaxrnn.groups import Count, Group


@dataclass(frozen=True, kw_only=True)
class Text(Group):
    """A text to predict character by character."""

    text: Path | None = None
    """UTF-8 text file; None for the language reference that comes with Python, which differs
    between versions."""
    rows: Count = 64
    """Number of equal pieces to cut the training text into, which are read in parallel."""
    held_out: Annotated[float, Gt(0), Lt(0.4)] = 0.05
    """Fraction of the text for testing, at its end; as much before it is for validation."""

    def build(self) -> Datasets:
        """Read the text and cut it into rows.

        Inputs are (rows, time) tokens and labels the tokens that follow them; the classes are the
        characters of the whole text. Validation and test text are cut into pieces of about
        1,000 characters.

        Raises:
          ValueError, OSError: the file is not text, too short for ``rows``, or can't be read.
        """
        text = self.read()
        part = int(self.held_out * len(text))
        parts = text[: -2 * part], text[-2 * part : -part], text[-part:]
        if len(parts[0]) <= self.rows or part < 2:
            options = f"--rows {self.rows} and --held-out {self.held_out:g}"
            raise ValueError(f"a text of {len(text)} characters is too short for {options}")
        alphabet = sorted(set(text))
        held_out_rows = part // 1000 + 1
        train = _in_rows(parts[0], alphabet, self.rows)
        validation, test = (_in_rows(piece, alphabet, held_out_rows) for piece in parts[1:])
        evals, bits = {"validation": validation, "test": test}, {}
        for name, compress in COMPRESSORS.items():  # bits that the last part adds, per character
            whole, before = (len(compress(known.encode())) for known in (text, text[:-part]))
            bits[name] = 8 * (whole - before) / part
        return Datasets(train, evals, outputs=len(alphabet), baselines={"bits": bits})

    def read(self) -> str:
        """Read the whole text, Python's reference without repeated paragraphs."""
        if self.text is None:
            from pydoc_data.topics import topics

            paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
            return "\n\n".join(dict.fromkeys(paragraph.rstrip() for paragraph in paragraphs))
        try:
            return self.text.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"--text {self.text} is not UTF-8 text: {error.reason}") from error


COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=9),
    "xz": partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME),
}


def _in_rows(text: str, alphabet: Sequence[str], rows: int) -> Split:
    """Cut (rows, time) tokens, and the tokens that follow; leftover characters are dropped."""
    number = {character: token for token, character in enumerate(alphabet)}
    dtype = np.uint8 if len(alphabet) <= 256 else np.int32
    tokens = np.array([number[character] for character in text], dtype)
    time = (len(tokens) - 1) // rows
    inputs, labels = (tokens[start : start + rows * time].reshape(rows, time) for start in (0, 1))
    return Split(inputs, labels, class_names=tuple(alphabet))
