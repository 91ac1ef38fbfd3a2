"""Curves of one or several runs. Every function returns a Figure and shows nothing itself."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from jaxrnn.training.history import History, mean_history


class Picture(Figure):
    """A matplotlib Figure that notebooks display, without pyplot or a magic command."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plot_history(
    history: History | Sequence[History],
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Draw every metric against epochs, one panel each, with one line for each split.

    Args:
      history: at least one epoch; or the histories of several runs, of which the mean is drawn in
        a band of one standard deviation.
      baselines: values to compare with, by metric and name, drawn as horizontal lines. A metric
        with baselines that varies more than thirtyfold gets a logarithmic axis.

    Returns:
      A figure of 10 × 6 inches per metric.

    Raises:
      ValueError: the history is empty.

    >>> figure = plot_history(History().append(epoch=1, train_loss=0.5, train_accuracy=0.9))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['Accuracy', 'Cross Entropy']
    """
    histories = [history] if isinstance(history, History) else list(history)
    history = mean_history(histories)
    if not len(history):
        raise ValueError("the history is empty, so there is nothing to plot")
    columns = [name for name in history.columns if name not in ("epoch", "seconds")]
    metrics = [name.removeprefix("train_") for name in columns if name.startswith("train_")]
    metrics = metrics or list(dict.fromkeys(name.rpartition("_")[2] for name in columns))
    metrics.sort(key=lambda metric: metric == "loss")  # the loss comes last
    labels = {"loss": "Cross Entropy" if "accuracy" in metrics else "Loss", "rmse": "RMSE"}
    figure = Picture(figsize=(10 * len(metrics), 6), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        for column in columns:
            if column.endswith(f"_{metric}") and history.measured(column):
                split = column.removesuffix(f"_{metric}").replace("_", " ").title()
                marker = "o" if np.isfinite(history[column]).sum() == 1 else None
                label = f"{split} Set"
                (line,) = axes.plot(history["epoch"], history[column], marker=marker, label=label)
                if len(histories) > 1:
                    deviation = np.std([one[column] for one in histories], axis=0, ddof=1)
                    edges = history[column] - deviation, history[column] + deviation
                    axes.fill_between(history["epoch"], *edges, color=line.get_color(), alpha=0.2)
        _draw_baselines(axes, (baselines or {}).get(metric, {}))
        axes.set_xlabel("Epochs")
        axes.set_ylabel(labels.get(metric, metric.replace("_", " ").title()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _draw_baselines(axes: Any, values: Mapping[str, float]) -> None:
    curves = np.concatenate([line.get_ydata() for line in axes.lines])
    if values and np.nanmax(curves) > 30 * np.nanmin(curves) > 0:
        axes.set_yscale("log")
    for (name, value), style in zip(
        values.items(), itertools.cycle((":", "--", "-.")), strict=False
    ):
        label = f"{name}, {value:.3g}"
        axes.axhline(value, color="black", linestyle=style, linewidth=1, label=label)


def plot_runs(runs: Mapping[str, History | Sequence[History]], column: str | None = None) -> Figure:
    """Draw a metric of any number of runs against seconds of training, one line for each run.

    Args:
      runs: for each name a history, or those of N networks that were trained at once: their mean is
        drawn in a band of one standard deviation, and each network counts an Nth of the seconds.
      column: the metric, such as ``validation_loss``; by default the last one that every run
        evaluated, an accuracy if there is one.

    Returns:
      A figure 10 inches wide, seconds on a logarithmic axis, accuracy on a logit one.

    Raises:
      ValueError: no run, or none of the columns was measured after every epoch of all runs.

    >>> history = History().append(epoch=1, test_accuracy=0.9, seconds=2.0)
    >>> plot_runs({"tf1": history}).axes[0].get_ylabel()
    'Test Accuracy'
    """
    if not runs:
        raise ValueError("there is no run to plot")
    many = {name: [run] if isinstance(run, History) else list(run) for name, run in runs.items()}
    column = _common_column(many, column)
    rows = -(-len(runs) // 4)  # of the legend
    figure = Picture(figsize=(10, 6 + 0.25 * rows), layout="constrained")
    axes = figure.subplots()
    if len(runs) > 10:  # more than there are colors by default
        axes.set_prop_cycle(color=colormaps["turbo"](np.linspace(0.05, 0.95, len(runs))))
    for name, histories in many.items():
        values = np.array([one[column] for one in histories])
        if column.endswith("_accuracy"):
            values = values.clip(1e-3, 1 - 1e-4)  # the logit scale has no 0 and no 1
        seconds = np.cumsum(mean_history(histories)["seconds"]) / len(histories)
        mean = values.mean(0)
        (line,) = axes.plot(seconds, mean, marker="o" if mean.size < 10 else None, label=name)
        if len(histories) > 1:
            deviation = values.std(0, ddof=1)
            edges = mean - deviation, mean + deviation
            axes.fill_between(seconds, *edges, color=line.get_color(), alpha=0.2)
    axes.set(xscale="log", xlabel="Seconds of training", ylabel=column.replace("_", " ").title())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if column.endswith("_accuracy"):
        axes.set_yscale("logit")
        ticks = [0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(4, len(runs)))
    return figure


def _common_column(runs: Mapping[str, Sequence[History]], column: str | None) -> str:
    """The column to compare runs by, which all of them measured after every epoch."""

    def complete(name: str) -> bool:
        histories = itertools.chain.from_iterable(runs.values())
        return all(one.measured(name) and not np.isnan(one[name]).any() for one in histories)

    first = next(iter(runs.values()))
    names = [column] if column else [*first[0].columns] if first else []
    common = [
        name
        for name in names
        if name not in ("epoch", "seconds") and not name.startswith("train_") and complete(name)
    ]
    if not common or not complete("seconds"):
        raise ValueError(
            f"{column or 'no metric'} was not measured after every epoch of each of these runs: "
            + ", ".join(runs)
        )
    return next((name for name in reversed(common) if name.endswith("_accuracy")), common[-1])
