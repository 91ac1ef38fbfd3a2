"""The curves of a run, in memory and on disk, and the seconds of its phases."""

import csv
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import SupportsFloat, TypeAlias

import jax
import numpy as np

from jaxrnn.files import write_csv
from jaxrnn.training.tasks import Task

Number: TypeAlias = SupportsFloat | str


@dataclass(frozen=True)
class History:
    """The curves of a run, one row per epoch. Immutable: :meth:`append` returns a longer one.

    Each row maps column names to numbers: ``epoch`` from 1, one column for each metric of each
    split, such as ``train_loss`` and ``test_accuracy``, and ``seconds`` of training in that epoch.

    >>> history = History().append(epoch=1, train_loss=0.5).append(epoch=2, train_loss=0.25)
    >>> history["train_loss"]
    array([0.5 , 0.25])
    >>> len(history), history.columns, history.measured("test_loss")
    (2, ('epoch', 'train_loss'), False)
    """

    rows: tuple[dict[str, float], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the order in which they were recorded."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        metrics = (name for name in names if name not in ("epoch", "seconds"))
        return ("epoch", *metrics, *(["seconds"] if "seconds" in names else []))

    def __getitem__(self, column: str) -> np.ndarray:
        """Return one curve, (epochs,) float64; NaN for epochs that didn't measure it.

        Raises:
          ValueError: no epoch measured it.
        """
        if self.rows and column not in self.columns:
            raise ValueError(f"there is no column {column!r}, only {', '.join(self.columns)}")
        return np.array([row.get(column, math.nan) for row in self.rows], float)

    def measured(self, column: str) -> bool:
        """Return whether any epoch measured this column."""
        return column in self.columns and not np.isnan(self[column]).all()

    def best(self, column: str, *, maximize: bool = True) -> dict[str, float]:
        """Return the row of the first epoch with the highest value of ``column``, or the lowest.

        Raises:
          ValueError: no epoch measured it.
        """
        if not self.measured(column):
            raise ValueError(f"no epoch measured {column}")
        choose = np.nanargmax if maximize else np.nanargmin
        return self.rows[int(choose(self[column]))]

    def _repr_html_(self) -> str:
        """Return a table for notebooks: a curve of each metric, and the first and last epochs."""
        columns = self.columns
        head = map(title, columns)
        curves = ["", *(_curve(self["epoch"], self[name]) for name in columns[1:])]
        table = [[_text(row.get(name, math.nan)) for name in columns] for row in self.rows]
        if len(table) > 10:
            table[3:-6] = [["…"] * len(columns)]
        cells = (f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in [curves, *table])
        return f"<table><tr><th>{'</th><th>'.join(head)}</th></tr>{''.join(cells)}</table>"

    def append(self, **row: Number) -> "History":
        """Add an epoch; each value is a number or a scalar array.

        Raises:
          ValueError: ``epoch`` is missing, or a value is not a number.
        """
        return History((*self.rows, _check_row(row)))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Number]]) -> "History":
        """Build a history from rows, each as :meth:`append` takes it."""
        return cls(tuple(map(_check_row, rows)))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all rows, atomically."""
        write_csv(path, self.columns, self.rows)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> "History":
        """Read what :meth:`to_csv` wrote; every number comes back bit for bit.

        Raises:
          ValueError: the file is not a history.
        """
        with open(path, newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                names = next(reader, [])
                if names[:1] != ["epoch"] or len(set(names)) < len(names):
                    raise ValueError("expected a header of distinct columns, epoch first")
                rows = []
                for row in filter(None, reader):
                    if len(row) != len(names):
                        raise ValueError(f"expected {len(names)} fields")
                    cells = zip(names, row, strict=True)
                    rows.append(_check_row({name: text for name, text in cells if text}))
            except (csv.Error, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
        return cls(tuple(rows))


def metric_columns(names: Iterable[str], metric: str) -> list[str]:
    """Return the columns of a metric; those of ``accuracy`` are not those of ``top5_accuracy``."""
    names = [name for name in names if name.endswith(f"_{metric}")]
    trained = [name.removeprefix("train") for name in names if name.startswith("train_")]
    longer = tuple(name for name in trained if name != f"_{metric}")
    return [name for name in names if not name.endswith(longer)]


def choosing_column(names: Iterable[str], task: Task) -> str | None:
    """Return the column for choosing the best epoch: ``task.best`` on the first evaluated split.

    Without one, that of the training split; None if it has no such metric either.
    """
    columns = metric_columns(names, task.best)
    return min(columns, key=lambda name: name.startswith("train_"), default=None)


def best_epoch(history: History, task: Task) -> int:
    """Return the best epoch by :func:`choosing_column`; without one, the last."""
    column = choosing_column(history.columns, task)
    if column is None or not history.measured(column):
        return len(history)
    return int(history.best(column, maximize=task.maximize)["epoch"])


def has_stalled(history: History, task: Task, patience: int | None) -> bool:
    """Return whether the last ``patience`` epochs brought no improvement."""
    if patience is None or not history:
        return False
    return len(history) - best_epoch(history, task) >= patience


def title(column: str) -> str:
    """Return the name of a column with spaces."""
    return column.replace("_", " ")


def format_metric(value: float | None) -> str:
    """Format a metric with four decimals or, if very small or large, four significant digits."""
    if value is None:  # not measured, or not finite
        return ""
    return f"{value:.4f}" if value == 0 or 1e-4 <= abs(value) < 1e4 else f"{value:.4g}"


def _text(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _curve(epochs: np.ndarray, values: np.ndarray) -> str:
    """Draw a curve of 80 × 24 pixels as SVG, in the color of the text."""
    finite = np.flatnonzero(np.isfinite(values))
    finite = finite[np.linspace(0, finite.size - 1, min(finite.size, 160)).astype(int)]
    if finite.size < 2:
        return ""
    x, y = epochs[finite], values[finite]
    x, y = 80 * (x - x[0]) / (np.ptp(x) or 1), 22 - 20 * (y - y.min()) / (np.ptp(y) or 1)
    points = " ".join(f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True))
    line = f'<polyline points="{points}" fill="none" stroke="currentColor"/>'
    return f'<svg width="80" height="24">{line}</svg>'


def _check_row(row: Mapping[str, Number]) -> dict[str, float]:
    if bad := [name for name in row if not name.isidentifier()]:
        raise ValueError(f"{bad[0]!r} is not a column name")
    if "epoch" not in row or float(row["epoch"]) % 1:
        raise ValueError(f"a row needs its epoch, a whole number; got {row.get('epoch')}")
    return {name: float(value) for name, value in row.items()} | {"epoch": int(float(row["epoch"]))}


class Clock:
    """Seconds by phase; the time that JAX takes to compile counts as ``compilation``.

    Phases must not nest. Compilation in other threads is not counted.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"compilation": 0.0}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time that the ``with`` block takes to ``seconds[phase]``."""
        self._thread = threading.get_ident()
        compiled, start = self.seconds["compilation"], time.perf_counter()
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(self._listen)
            elapsed = time.perf_counter() - start - (self.seconds["compilation"] - compiled)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        compiling = event.startswith("/jax/core/compile/")  # tracing, lowering, XLA
        if compiling and threading.get_ident() == self._thread:
            self.seconds["compilation"] += duration_secs
