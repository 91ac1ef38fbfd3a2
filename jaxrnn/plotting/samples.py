"""Grids of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxrnn.data.splits import Split
from jaxrnn.plotting.curves import Picture, plain


def plot_samples(
    split: Split, *, rows: int = 6, columns: int = 6, titles: Sequence[str] | None = None
) -> Figure:
    """Draw the first examples of a split as a grid of gray images, each with its label.

    Args:
      split: ``inputs`` (N, height, width); each sequence is drawn as an image, a row per time step.
      rows: number of rows of the grid; too few examples leave it partly empty.
      columns: number of columns of the grid.
      titles: one for each example, instead of its label.

    Returns:
      A figure of 2.5 × 2.5 inches per image: 15 × 15 for six rows and columns.

    Raises:
      ValueError: inputs that are not images.
    """
    images = np.asarray(split.inputs)[: rows * columns]
    if images.ndim != 3:
        raise ValueError(f"inputs must be (N, height, width) to be drawn; got shape {images.shape}")
    if titles is None:
        names, labels = split.class_names, split.labels if split.targets is None else split.targets
        titles = [names[label] if names else str(label) for label in labels[: len(images)]]
    figure = Picture(figsize=(2.5 * columns, 2.5 * rows))
    draw_images(figure.add_axes((0, 0, 1, 1)), images, titles, (rows, columns), fontsize=12)
    return figure


def draw_images(
    axes: Any, images: np.ndarray, titles: Sequence[str], grid: tuple[int, int], fontsize: float
) -> None:
    """Draw gray images (N, height, width) with titles in a grid of (rows, columns).

    They share one Axes, which is several times as fast as one for each.
    """
    (rows, columns), (height, width) = grid, images.shape[1:]
    size = max(height, width)  # cells are square, unlike some images
    step = 1.25 * size
    for index, image in enumerate(images):
        top = step * (index // columns) + (size - height) / 2
        left = step * (index % columns) + (size - width) / 2
        axes.imshow(image, cmap="gray", extent=(left, left + width, top + height, top))
        place = left + width / 2, top - 0.03 * size
        axes.text(*place, plain(titles[index]), ha="center", va="bottom", fontsize=fontsize)
    axes.axis("off")
    axes.set(xlim=(size - step, columns * step), ylim=(rows * step, size - step))
