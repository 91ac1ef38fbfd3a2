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
    """Draw the first examples of a split as a grid of images, each with its label.

    Args:
      split: ``inputs`` (N, height, width), or (N, height, 3 × width) if it has three ``channels``;
        each sequence is drawn as an image, a row per time step.
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
        known: Any = [""] * len(images) if labels is None else np.asarray(labels)[: len(images)]
        named = names and split.targets is None
        titles = [names[label] if named else str(label) for label in known]
    figure = Picture(figsize=(2.5 * columns, 2.5 * rows))
    axes = figure.add_axes((0, 0, 1, 1))
    draw_images(axes, images, titles, (rows, columns), channels=split.channels, fontsize=12)
    return figure


def draw_images(
    axes: Any,
    images: np.ndarray,
    titles: Sequence[str],
    grid: tuple[int, int],
    *,
    channels: int,
    fontsize: float,
) -> None:
    """Draw images (N, height, width), with titles, in a grid of (rows, columns).

    They share one Axes, which is several times as fast as one for each.
    """
    if channels == 3:
        images = images.reshape(*images.shape[:2], -1, 3)
    (rows, columns), (height, width) = grid, images.shape[1:3]
    most = 255 if images.dtype == np.uint8 else images.max(initial=0)
    least = images.min(initial=0)
    size = max(height, width)  # cells are square, unlike some images
    step = 1.25 * size
    for index, image in enumerate(images):
        top = step * (index // columns) + (size - height) / 2
        left = step * (index % columns) + (size - width) / 2
        extent = left, left + width, top + height, top
        axes.imshow(image, cmap="gray", extent=extent, vmin=least, vmax=most)
        place = left + width / 2, top - 0.03 * size
        axes.text(*place, plain(titles[index]), ha="center", va="bottom", fontsize=fontsize)
    axes.axis("off")
    axes.set(xlim=(size - step, columns * step), ylim=(rows * step, size - step))
