"""The verbs of pages whose networks read digits: predict with --ink, export with --page."""

import logging
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxrnn.data.pictures import PictureLike, read_picture
from jaxrnn.runs import Run
from jaxrnn.runs.verbs.export import Export
from jaxrnn.runs.verbs.predict import Predict
from jaxrnn.runs.verbs.reading import Reader, image_reader

log = logging.getLogger("jaxrnn")

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class PredictDigits(Predict):
    """Predict with a stored run, and print a line for each example."""

    ink: Literal["auto", "bright", "dark", "none"] | None = None
    """Polarity of the ink of digits relative to the paper: auto detects it, and none only resizes
    pictures. By default auto if the classes are digits, else none."""

    def reader(self, run: Run) -> Reader:
        """Return the reader of files; pictures of digits become images like those of MNIST."""
        ink = self.ink or ("auto" if reads_digits(run) else "none")
        if ink != "none" and run.image_shape != (28, 28, 1):
            raise ValueError("--ink requires a network that reads gray images of 28 × 28 pixels")
        if ink == "none" or self.as_is:
            return super().reader(run)
        from .pictures import normalize_digit  # slow to import

        data = run.experiment.data
        if self.ink is None and run.class_names != tuple("0123456789"):
            log.warning("pictures are read as digits, as in MNIST; --ink none only resizes them")

        def fit(picture: PictureLike) -> np.ndarray:
            return normalize_digit(read_picture(picture, data.background), ink)

        return image_reader((28, 28, 1), fit, data.as_inputs)


@dataclass(frozen=True)
class ExportDigits(Export):
    """Write a trained network for other programs."""

    page: bool = False
    """Also write digit.html, a web page on which to draw digits for the network."""

    def more_files(self, run: Run) -> Mapping[str, str | bytes]:
        """Return the web page to draw on, if requested."""
        if not self.page:
            return {}
        if not reads_digits(run):
            raise ValueError("--page requires a network that reads digits of 28 × 28 pixels")
        from .page import drawing_page  # slow to import

        data, order = run.experiment.data, None
        if data.permute:
            order = data.as_inputs(np.arange(784).reshape(1, 28, 28)).ravel()
        params = run.network.params
        html = drawing_page(run.model, params, run.input_shape, run.class_names, order)
        return {"digit.html": html}


def reads_digits(run: Run) -> bool:
    """Return whether a network classifies digits, or some of them, in images like those of MNIST.

    Classes "0" and "1" alone mean no and yes rather than digits.
    """
    digits = {*map(_digit_of, run.class_names)}
    distinct = len(digits) == len(run.class_names) > 1 and None not in digits
    return run.image_shape == (28, 28, 1) and distinct and {*run.class_names} != {"0", "1"}


def _digit_of(name: str) -> int | None:
    """Return the digit that a class is named after, as in 7, 07, seven, Digit 7 and 7 - seven."""
    parts = re.findall(r"\d+|[^\W\d_]+", unicodedata.normalize("NFKC", name).casefold())
    digits = {
        int(part) if part.isdigit() else _WORDS.index(part) if part in _WORDS else -1
        for part in parts
        if part not in ("digit", "number")
    }
    return digits.pop() if len(digits) == 1 and digits <= {*range(10)} else None
