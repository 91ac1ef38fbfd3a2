"""The confusion matrix and the worst mistakes of a classifier."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from jaxrnn.data.splits import Split
from jaxrnn.plotting.curves import Picture, plain
from jaxrnn.plotting.samples import draw_images


def plot_confusion(split: Split, logits: Any, *, worst: int = 8) -> Figure:
    """Draw the confusion matrix of a classifier, and its worst mistakes.

    Args:
      split: N examples with one label each; the worst mistakes are drawn if they are images.
      logits: (N, classes) outputs of the network, from :func:`jaxrnn.predict`.
      worst: number of mistakes to draw, those with the highest cross entropy.

    Returns:
      A figure of 12 × 6 inches, and 1.9 more for the mistakes: the number of examples of each class
      (rows) by predicted class (columns), and the most frequent confusions of two classes.

    >>> split = Split(np.zeros((3, 2, 1), np.uint8), np.array([0, 1, 1]))
    >>> figure = plot_confusion(split, np.array([[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]]))
    >>> figure.axes[0].get_title()
    '1 of 3 examples (33.33%) are misclassified'
    """
    labels, logits = np.asarray(split.labels), np.asarray(logits, np.float64)
    classes, predicted = logits.shape[1], logits.argmax(1)
    names = split.class_names or tuple(map(str, range(classes)))
    counts = np.bincount(classes * labels + predicted, minlength=classes**2)
    probabilities = softmax(logits, axis=1)
    mistakes = np.flatnonzero(predicted != labels)
    order = np.argsort(probabilities[mistakes, labels[mistakes]], kind="stable")[:worst]
    mistakes = mistakes[order]
    drawn = np.ndim(split.inputs) == 3 and np.shape(split.inputs)[2] > 1 and len(mistakes) > 0

    figure = Picture(figsize=(12, 6 + 1.9 * drawn), layout="constrained")
    parts = figure.subfigures(1 + drawn, 1, height_ratios=[6, 1.9][: 1 + drawn], squeeze=False)
    matrix, pairs = parts[0, 0].subplots(1, 2, width_ratios=[1.4, 1])
    _draw_counts(matrix, pairs, counts.reshape(classes, classes), names)
    if drawn:
        pair = "{} → {}, {:.0%}".format
        titles = [
            pair(names[labels[i]], names[predicted[i]], probabilities[i].max()) for i in mistakes
        ]
        axes, images = parts[1, 0].subplots(), np.asarray(split.inputs)[mistakes]
        draw_images(axes, images, titles, (1, worst), channels=split.channels, fontsize=9)
    return figure


def _draw_counts(matrix: Any, pairs: Any, counts: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix, and a bar for each of the most confused pairs of classes."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    total, misses = counts.sum(), wrong.sum()
    matrix.imshow(wrong, cmap="Reds")
    slanted = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 2 else {}
    ticks = range(len(names)), [*map(plain, names)]
    matrix.set_xticks(*ticks, **slanted)
    matrix.set_yticks(*ticks)
    title = f"{misses} of {total} examples ({misses / total:.2%}) are misclassified"
    matrix.set(title=title, xlabel="Predicted", ylabel="True")
    for (true, predicted), count in np.ndenumerate(counts if len(names) <= 20 else []):
        if count:
            dark = true != predicted and count > wrong.max() / 2
            color = "white" if dark else "0.6" if true == predicted else "black"
            matrix.text(predicted, true, count, ha="center", va="center", color=color, fontsize=9)
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    top = [divmod(int(flat), len(names)) for flat in order if wrong.flat[flat]]
    bars = pairs.barh(range(len(top)), [wrong[pair] for pair in top], color="#c44e52")
    pairs.bar_label(bars, padding=3)
    labels = [plain(f"{names[true]} → {names[predicted]}") for true, predicted in top]
    pairs.set_yticks(range(len(top)), labels)
    pairs.margins(x=0.08)
    pairs.invert_yaxis()
    pairs.set(title="Most confused: true → predicted", xlabel="Examples")
