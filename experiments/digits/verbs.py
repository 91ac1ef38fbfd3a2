"""The verbs of pages whose networks read digits: predict with --ink, export with --page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxrnn.data.pictures import PictureLike, read_picture
from jaxrnn.runs import Run
from jaxrnn.runs.verbs.export import Export
from jaxrnn.runs.verbs.predict import Predict
from jaxrnn.runs.verbs.reading import Reader, image_reader


@dataclass(frozen=True)
class PredictDigits(Predict):
    """Predict with a stored run, and print a line for each example."""

    ink: Literal["auto", "bright", "dark"] = "auto"
    """Digits: whether ink is brighter or darker than the paper; auto decides by the border."""

    def reader(self, run: Run) -> Reader:
        """Return the reader of files; pictures of digits become images like those of MNIST."""
        if not reads_digits(run):
            if self.ink != "auto":
                raise ValueError("--ink needs a network that reads digits of 28 × 28 pixels")
            return super().reader(run)
        if self.as_is:
            return super().reader(run)
        from experiments.digits.pictures import normalize_digit  # slow to import

        def fit(picture: PictureLike) -> np.ndarray:
            return normalize_digit(read_picture(picture), self.ink)

        return image_reader((28, 28, 1), fit, run.experiment.data.as_inputs)


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
            raise ValueError("--page needs a network that reads digits of 28 × 28 pixels")
        from experiments.digits.page import drawing_page  # slow to import

        data, order = run.experiment.data, None
        if data.permute:
            order = data.as_inputs(np.arange(784).reshape(1, 28, 28)).ravel()
        params = run.network.params
        html = drawing_page(run.model, params, run.input_shape, run.class_names, order)
        return {"digit.html": html}


def reads_digits(run: Run) -> bool:
    """Return whether a network classifies digits in images like those of MNIST."""
    return run.image_shape == (28, 28, 1) and run.class_names == tuple("0123456789")
