"""Curves of one or several runs. The functions return figures and show nothing."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxrnn.training.history import History, metric_columns, title


class Picture(Figure):
    """A matplotlib Figure that notebooks display, without pyplot or a magic command."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plain(text: object) -> str:
    """Escape dollar signs, which matplotlib would read as math."""
    return str(text).replace("$", r"\$")


def plot_history(
    history: History | Sequence[History],
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Draw every metric against epochs, one panel each, with one line for each split.

    Args:
      history: at least one epoch; or the histories of several runs, drawn as mean and band of one
        standard deviation over the epochs that all of them have.
      baselines: values to compare with, by metric and name, drawn as horizontal lines. A metric
        with baselines that varies more than thirtyfold gets a logarithmic axis.

    Returns:
      A figure of 10 × 6 inches per metric.

    >>> figure = plot_history(History().append(epoch=1, train_loss=0.5, train_accuracy=0.9))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['Accuracy', 'Cross Entropy']
    """
    runs = [history] if isinstance(history, History) else history
    epochs = _values(runs, "epoch")[0]
    columns = [name for name in runs[0].columns if name not in ("epoch", "seconds")]
    metrics = [name.removeprefix("train_") for name in columns if name.startswith("train_")]
    metrics = metrics or list(dict.fromkeys(name.rpartition("_")[2] for name in columns))
    metrics = [
        name for name in metrics if any(map(runs[0].measured, metric_columns(columns, name)))
    ]
    metrics.sort(key=lambda metric: metric == "loss")  # the loss comes last
    labels = {"loss": "Cross Entropy" if "accuracy" in metrics else "Loss", "rmse": "RMSE"}
    figure = Picture(figsize=(10 * len(metrics), 6), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for column in metric_columns(columns, metric):
            if runs[0].measured(column):
                split = _title(column.removesuffix(f"_{metric}"))
                values = _values(runs, column)
                drawn = np.isfinite(values).all(0)  # some epochs may not be evaluated
                marker = "o" if drawn.sum() == 1 else None
                points = epochs[drawn], values[:, drawn]
                _draw_mean(axes, *points, marker=marker, label=f"{split} Set")
        levels = (baselines or {}).get(metric, {})
        curves = np.concatenate([line.get_ydata() for line in axes.lines])
        if levels and np.nanmax(curves) > 30 * np.nanmin(curves) > 0:
            axes.set_yscale("log")
        for (name, value), style in zip(levels.items(), itertools.cycle((":", "--", "-."))):
            label = plain(f"{name}, {value:.3g}")
            axes.axhline(value, color="black", linestyle=style, linewidth=1, label=label)
        axes.set(xlabel="Epochs", ylabel=labels.get(metric, _title(metric)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _title(name: str) -> str:
    return plain(title(name).title())


def _values(runs: Sequence[History], column: str) -> np.ndarray:
    """Return a column of every run, (runs, epochs), for the epochs that all of them have."""
    return np.array([run[column][: min(map(len, runs))] for run in runs])


def _draw_mean(axes: Any, x: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """Draw the mean of values (runs, points) and, of several runs, a band."""
    mean = values.mean(0)
    (line,) = axes.plot(x, mean, **style)
    if len(values) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(x, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2)


def plot_runs(runs: Mapping[str, History | Sequence[History]], column: str | None = None) -> Figure:
    """Draw a metric of several runs against seconds of training, one line for each name.

    Args:
      runs: by name, a history, or those of several runs, drawn as in :func:`plot_history`.
      column: the metric, such as ``validation_loss``; by default the last one that every run
        evaluated, an accuracy if there is one.

    Returns:
      A figure 10 inches wide, seconds on a logarithmic axis, accuracy on a logit one.

    Raises:
      ValueError: there is no run, or no such column measured after every epoch of all runs.

    >>> history = History().append(epoch=1, test_accuracy=0.9, seconds=2.0)
    >>> plot_runs({"tf1": history}).axes[0].get_ylabel()
    'Test Accuracy'
    """
    lines = {name: [run] if isinstance(run, History) else run for name, run in runs.items()}
    column = _common_column(lines, column)
    rows = -(-len(runs) // 4)  # of the legend
    figure = Picture(figsize=(10, 6 + 0.25 * rows), layout="constrained")
    axes = figure.subplots()
    if len(runs) > 10:  # more than the default colors
        axes.set_prop_cycle(color=colormaps["turbo"](np.linspace(0.05, 0.95, len(runs))))
    axes.set(xscale="log", xlabel="Seconds of training", ylabel=_title(column))
    axes.xaxis.set_major_formatter("{x:g}")
    accuracy = column.endswith("_accuracy")
    if accuracy:
        axes.set_yscale("logit")
        ticks = [0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
        axes.set_yticks(ticks, map(str, ticks))
        axes.set_yticks([], minor=True)
    for name, line in lines.items():
        seconds = _values(line, "seconds").mean(0).cumsum()
        marker = "o" if seconds.size < 10 else None
        values = _values(line, column)
        if accuracy:  # the logit scale has no 0 and no 1
            values = values.clip(1e-3, 1 - 1e-4)
        _draw_mean(axes, seconds, values, marker=marker, label=plain(name))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(4, len(runs)))
    return figure


def _common_column(lines: Mapping[str, Sequence[History]], column: str | None) -> str:
    """Choose the column to compare, which all runs measured after every epoch."""
    runs = [*itertools.chain(*lines.values())]
    if not runs:
        raise ValueError("there is no run to plot")
    shared = set(runs[0].columns[1:]).intersection(*itertools.chain(*runs))
    names = [name for name in runs[0].columns if name in shared - {"seconds"}]
    names = [name for name in names if name == (column or name) and name[:6] != "train_"]
    if not names or "seconds" not in shared:
        what = f"{column} was not" if column else "no metric was"
        raise ValueError(f"{what} measured after every epoch of all runs: {', '.join(lines)}")
    return next((name for name in reversed(names) if name.endswith("_accuracy")), names[-1])
