"""History: the curves of a run, in memory and on disk."""

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
)


@dataclass(frozen=True)
class History:
    """The curves of a run, one row an epoch. Immutable: :meth:`append` returns a longer one.

    Each row maps column names to numbers: ``epoch`` from 1, ``*_loss`` in nats, ``*_accuracy`` in
    0 … 1, ``seconds`` of training in that epoch. What was not measured is not in the row.

    >>> history = History().append(epoch=1, train_loss=0.5).append(epoch=2, train_loss=0.25)
    >>> history["train_loss"]
    array([0.5 , 0.25])
    >>> len(history), history.measured("test_loss")
    (2, False)
    """

    rows: tuple[dict[str, float], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> np.ndarray:
        """One curve, (epochs,) float64; NaN where an epoch did not measure it."""
        _check_columns([column])
        return np.array([row.get(column, math.nan) for row in self.rows], float)

    def measured(self, column: str) -> bool:
        """Whether any epoch measured this column."""
        return not np.isnan(self[column]).all()

    def best(self, column: str) -> dict[str, float]:
        """The row of the first epoch where ``column``, an accuracy, is highest.

        Raises:
          ValueError: no epoch measured it.
        """
        if not self.measured(column):
            raise ValueError(f"no epoch measured {column}")
        return self.rows[int(np.nanargmax(self[column]))]

    def append(self, **row: Any) -> "History":
        """This history and one more epoch; each value is a number or an array of one.

        Raises:
          ValueError: a name is no column, or ``epoch`` is missing.
        """
        return History((*self.rows, _check_row(row)))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "History":
        """The history of these rows, each as :meth:`append` takes it.

        Raises:
          ValueError: as :meth:`append`.
        """
        return cls(tuple(map(_check_row, rows)))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all rows; at any moment ``path`` is the old file or the new one."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(path, text.getvalue())

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> "History":
        """Read what :meth:`to_csv` wrote; every number comes back bit for bit.

        Raises:
          ValueError: the file has other columns, or a field is no number.
        """
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            rows: list[dict[str, float]] = []
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"{path}: expected columns {','.join(COLUMNS)}")
            for row in _readable(reader, path):
                try:
                    if None in row.values():
                        raise ValueError("the line ends early")
                    rows.append(_check_row({name: text for name, text in row.items() if text}))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
        return cls(tuple(rows))


def mean_history(histories: Sequence[History]) -> History:
    """The mean of each curve over several runs of the same length.

    >>> a, b = (History().append(epoch=1, train_loss=loss) for loss in (0.5, 1.0))
    >>> mean_history([a, b]).rows
    ({'epoch': 1, 'train_loss': 0.75},)
    """
    mean = History()
    for rows in zip(*histories, strict=True):
        mean = mean.append(**{name: np.mean([row[name] for row in rows]) for name in rows[0]})
    return mean


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replace a file as a whole: at any moment, even after a crash, it is the old one or the new.

    Raises:
      OSError: the folder cannot be written or is full; the old file is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _readable(reader: Any, path: Any) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:  # a field that is too long, a NUL
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _check_row(row: Mapping[str, Any]) -> dict[str, float]:
    _check_columns(row)
    if "epoch" not in row or float(row["epoch"]) % 1:
        raise ValueError(f"a row needs its epoch, a whole number; got {row.get('epoch')}")
    return {name: float(value) for name, value in row.items()} | {"epoch": int(row["epoch"])}


def _check_columns(names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise ValueError(f"no such column: {', '.join(unknown)}; there are {', '.join(COLUMNS)}")
