"""A picture of a sweep: a metric by the values of the options that were varied."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxrnn.plotting.curves import Picture


def plot_sweep(
    configurations: Sequence[Mapping[str, Any]], varied: Sequence[str], column: str
) -> Figure:
    """Draw the mean of a metric for each configuration of a sweep.

    One varied number is drawn as a curve in a band of one standard deviation, two varied options
    as a grid, and anything else as a bar for each configuration.

    Args:
      configurations: the ``configurations`` of ``sweep.json``: the varied values of each, the mean
        of the metric and, of several seeds, its standard deviation as ``COLUMN_deviation``.
      varied: names of the varied options.
      column: name of the metric, such as ``validation_accuracy``.

    Returns:
      A figure of 10 × 6 inches.

    >>> rows = [{"model.hidden": n, "test_rmse": 1 / n} for n in (32, 64, 128)]
    >>> plot_sweep(rows, ["model.hidden"], "test_rmse").axes[0].get_xlabel()
    'model.hidden'
    """
    figure = Picture(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    label = column.replace("_", " ")
    values = [[row[name] for name in varied] for row in configurations]
    mean = np.array([row[column] for row in configurations], float)
    deviation = np.array([row.get(f"{column}_deviation", 0.0) for row in configurations], float)
    if len(varied) == 1 and all(_is_number(value) for (value,) in values):
        x = np.array(values, float)[:, 0]
        axes.plot(x, mean, marker="o")
        axes.fill_between(x, mean - deviation, mean + deviation, alpha=0.2)
        axes.set(xlabel=varied[0], ylabel=label)
        if x.min() > 0 and x.max() >= 10 * x.min():
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
    elif len(varied) == 2:
        _draw_grid(figure, axes, values, mean, label)
        axes.set(ylabel=varied[0], xlabel=varied[1])
    else:
        names = [", ".join(map(str, row)) for row in values]
        axes.barh(names, mean, xerr=deviation, color="#4c72b0")
        axes.invert_yaxis()
        axes.set(xlabel=label, ylabel=", ".join(varied))
        low, high = (mean - deviation).min(), (mean + deviation).max()
        axes.set_xlim(low - 0.1 * (high - low or 1), high + 0.1 * (high - low or 1))
    return figure


def _draw_grid(
    figure: Figure, axes: Any, values: Sequence[Sequence[Any]], mean: np.ndarray, label: str
) -> None:
    """Draw a mean for each pair of values; white where there is none."""
    rows, columns = (list(dict.fromkeys(map(str, each))) for each in zip(*values, strict=True))
    grid = np.full((len(rows), len(columns)), np.nan)
    for (row, column), value in zip(values, mean, strict=True):
        place = rows.index(str(row)), columns.index(str(column))
        grid[place] = value
        box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0}
        axes.text(*place[::-1], f"{value:.4g}", ha="center", va="center", bbox=box)
    figure.colorbar(axes.imshow(grid, aspect="auto"), label=label)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
