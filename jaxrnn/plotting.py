"""Pictures: curves and sample grids. Each returns a Figure and shows nothing by itself."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from jaxrnn.data import Split
from jaxrnn.history import History, mean_history

_SERIES = {"train": "Train Set", "validation": "Validation Set", "test": "Test Set"}


class Picture(Figure):
    """A matplotlib Figure that notebooks display by themselves, without pyplot or a magic line."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plot_history(history: History | Sequence[History]) -> Figure:
    """Accuracy and cross entropy against epochs, side by side, one line for each measured split.

    Args:
      history: at least one epoch; or the histories of several runs, of which the mean is drawn in
        a band of one standard deviation.

    Returns:
      A 20 × 6 inch figure of two panels.

    Raises:
      ValueError: the history is empty.

    >>> figure = plot_history(History().append(epoch=1, train_loss=0.5, train_accuracy=0.9))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['Accuracy', 'Cross Entropy']
    """
    histories = [history] if isinstance(history, History) else list(history)
    history = mean_history(histories)
    if not len(history):
        raise ValueError("the history is empty: there is nothing to plot")
    figure = Picture(figsize=(20, 6), layout="constrained")
    for axes, metric, label in zip(
        figure.subplots(1, 2), ("accuracy", "loss"), ("Accuracy", "Cross Entropy"), strict=True
    ):
        for split, name in _SERIES.items():
            column = f"{split}_{metric}"
            if history.measured(column):
                marker = "o" if np.isfinite(history[column]).sum() == 1 else None
                (line,) = axes.plot(history["epoch"], history[column], marker=marker, label=name)
                if len(histories) > 1:
                    deviation = np.std([one[column] for one in histories], axis=0, ddof=1)
                    edges = history[column] - deviation, history[column] + deviation
                    axes.fill_between(history["epoch"], *edges, color=line.get_color(), alpha=0.2)
        axes.set_xlabel("Epochs")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure


def plot_runs(runs: Mapping[str, History | Sequence[History]]) -> Figure:
    """Test accuracy against seconds of training, one line for each run.

    Args:
      runs: by name, a history, or those of N networks that were trained at once: their mean is
        drawn in a band of one standard deviation, and a network counts an Nth of the seconds.

    Returns:
      A 10 × 6 inch figure, seconds on a logarithmic axis, accuracy on a logit one.

    Raises:
      ValueError: no run, or one whose test accuracy was not measured after each epoch.

    >>> history = History().append(epoch=1, test_accuracy=0.9, seconds=2.0)
    >>> plot_runs({"tf1": history}).axes[0].get_xlabel()
    'Seconds of training'
    """
    if not runs:
        raise ValueError("there is no run to plot")
    figure = Picture(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    for name, run in runs.items():
        histories = [run] if isinstance(run, History) else list(run)
        accuracies = np.array([history["test_accuracy"] for history in histories])
        if not accuracies.size or np.isnan(accuracies).any():
            raise ValueError(f"the test accuracy of {name} was not measured after each epoch")
        seconds = np.cumsum(mean_history(histories)["seconds"]) / len(histories)
        mean = accuracies.mean(0)
        (line,) = axes.plot(seconds, mean, marker="o" if mean.size < 10 else None, label=name)
        if len(histories) > 1:
            deviation = accuracies.std(0, ddof=1)
            edges = mean - deviation, mean + deviation
            axes.fill_between(seconds, *edges, color=line.get_color(), alpha=0.2)
    axes.set(xscale="log", yscale="logit", xlabel="Seconds of training", ylabel="Test Accuracy")
    axes.yaxis.set_major_locator(FixedLocator([0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def plot_samples(
    split: Split, *, rows: int = 6, columns: int = 6, titles: Sequence[str] | None = None
) -> Figure:
    """The first examples of a split as a grid of grey images, each under its label.

    Args:
      split: ``inputs`` (N, height, width), each sequence drawn as an image, a row per time step.
      rows, columns: of the grid, which stays empty where the split has too few examples.
      titles: one for each example, instead of its label.

    Returns:
      A figure of 2.5 × 2.5 inches an image: 15 × 15 for six rows and columns.

    Raises:
      ValueError: inputs that are not images, or fewer titles than images.
    """
    figure = Picture(figsize=(2.5 * columns, 2.5 * rows))
    images = np.asarray(split.inputs)
    shown = min(len(split), rows * columns)
    if images.ndim != 3:
        raise ValueError(f"inputs must be (N, height, width) to be drawn; got shape {images.shape}")
    if titles is not None and len(titles) < shown:
        raise ValueError(f"{shown} images need as many titles; got {len(titles)}")
    if titles is None:
        labels = np.asarray(split.labels)[:shown].tolist()
        titles = [split.class_names[label] if split.class_names else str(label) for label in labels]
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index < shown:
            axes.set_title(titles[index])
            axes.imshow(images[index], cmap="gray")
    return figure
