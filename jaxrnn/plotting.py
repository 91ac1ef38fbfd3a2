"""Pictures: curves and sample grids. Each returns a Figure and shows nothing by itself."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxrnn.data import Split
from jaxrnn.history import History

_SERIES = {"train": "Train Set", "validation": "Validation Set", "test": "Test Set"}


def plot_history(history: History) -> Figure:
    """Accuracy and cross entropy against epochs, side by side, one line for each measured split.

    Args:
      history: at least one epoch.

    Returns:
      A 20 × 6 inch figure of two panels.

    Raises:
      ValueError: the history is empty.
    """
    if not len(history):
        raise ValueError("the history is empty: there is nothing to plot")
    figure = Figure(figsize=(20, 6), layout="constrained")
    for axes, metric, label in zip(
        figure.subplots(1, 2), ("accuracy", "loss"), ("Accuracy", "Cross Entropy"), strict=True
    ):
        for split, name in _SERIES.items():
            column = f"{split}_{metric}"
            if history.measured(column):
                marker = "o" if np.isfinite(history[column]).sum() == 1 else None
                axes.plot(history["epoch"], history[column], marker=marker, label=name)
        axes.set_xlabel("Epochs")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure


def plot_samples(split: Split, *, rows: int = 6, columns: int = 6) -> Figure:
    """The first examples of a split as a grid of grey images, each under its label.

    Args:
      split: ``inputs`` (N, height, width), each sequence drawn as an image, a row per time step.
      rows, columns: of the grid, which stays empty where the split has too few examples.

    Returns:
      A 15 × 15 inch figure.
    """
    figure = Figure(figsize=(15, 15))
    images, labels = np.asarray(split.inputs), np.asarray(split.labels)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index < len(split):
            label = int(labels[index])
            axes.set_title(split.class_names[label] if split.class_names else str(label))
            axes.imshow(images[index], cmap="gray")
    return figure
