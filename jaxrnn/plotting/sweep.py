"""A metric of a sweep against the options that were varied."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxrnn.plotting.curves import Picture, plain
from jaxrnn.training.history import title


def plot_sweep(
    configurations: Sequence[Mapping[str, Any]], varied: Sequence[str], column: str
) -> Figure:
    """Draw the mean and standard deviation of a metric for every configuration of a sweep.

    Args:
      configurations: those of ``sweep.json``: the value of each varied option, the mean of the
        metric and, of several seeds, its deviation as ``COLUMN_deviation``.
      varied: names of the varied options. One numeric option is drawn as a curve in a band, two
        options as a grid of means, and anything else as points with error bars.
      column: name of the metric, such as ``validation_accuracy``.

    Returns:
      A figure of 10 × 6 inches.

    >>> rows = [{"model.hidden": units, "test_rmse": 1 / units} for units in (32, 64, 128)]
    >>> plot_sweep(rows, ["model.hidden"], "test_rmse").axes[0].get_xlabel()
    'model.hidden'
    """
    figure = Picture(figsize=(10, 6), layout="constrained")
    axes, label = figure.subplots(), plain(title(column))
    titles = [plain(name) for name in varied]
    values = [[row[name] for name in varied] for row in configurations]
    mean = np.array([row[column] for row in configurations], float)
    deviation = np.array([row.get(f"{column}_deviation", 0) for row in configurations], float)
    if len(varied) == 2:
        values = [[plain(value) for value in row] for row in values]
        rows, columns = (list(dict.fromkeys(option)) for option in zip(*values, strict=True))
        grid = np.full((len(rows), len(columns)), np.nan)
        box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0}
        for (first, second), value in zip(values, mean, strict=True):
            row, col = rows.index(first), columns.index(second)
            grid[row, col] = value
            axes.text(col, row, f"{value:.4g}", ha="center", va="center", bbox=box)
        figure.colorbar(axes.imshow(grid, aspect="auto"), label=label)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set(ylabel=titles[0], xlabel=titles[1])
        return figure
    if len(varied) == 1 and all(type(value) in (int, float) for (value,) in values):
        x = np.ravel(values)
        axes.plot(x, mean, marker="o")
        axes.fill_between(x, mean - deviation, mean + deviation, alpha=0.2)
        axes.set(xlabel=titles[0], ylabel=label)
        axes.set_xscale("log" if x.max() >= 10 * x.min() > 0 else "linear")
    else:
        names = [", ".join(map(plain, row)) for row in values]
        axes.errorbar(mean, names, xerr=deviation, fmt="o", capsize=4)
        axes.invert_yaxis()
        axes.set(xlabel=label, ylabel=", ".join(titles))
    axes.grid(alpha=0.3)
    return figure
