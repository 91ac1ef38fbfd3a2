"""Pictures, looked at through matplotlib's own objects and through their pixels."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from jaxrnn import History, plot_history, plot_runs, plot_samples


@pytest.fixture
def history():
    history = History()
    for epoch in range(1, 4):
        history = history.append(
            epoch=epoch, train_loss=1 / epoch, train_accuracy=1 - 1 / epoch / 2,
            test_loss=2 / epoch, test_accuracy=1 - 1 / epoch, seconds=1.0,
        )  # fmt: skip
    return history


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_two_labelled_panels(history):
    figure = plot_history(history)
    assert figure.get_size_inches().tolist() == [20, 6]
    assert [axes.get_xlabel() for axes in figure.axes] == ["Epochs", "Epochs"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Accuracy", "Cross Entropy"]
    for axes, metric in zip(figure.axes, ("accuracy", "loss"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == ["Train Set", "Test Set"]  # validation was not measured
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines)
        np.testing.assert_array_equal(lines["Test Set"].get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(lines["Test Set"].get_ydata(), history[f"test_{metric}"])


def test_curves_are_drawn(history):
    image = pixels(plot_history(history))
    assert image.shape == (300, 1000, 3)
    for color in ((31, 119, 180), (255, 127, 14)):  # matplotlib's first two
        drawn = (np.abs(image.astype(int) - color) < 8).all(-1)
        assert drawn[:, :500].sum() > 20
        assert drawn[:, 500:].sum() > 20


def test_one_epoch_is_visible():
    history = History().append(epoch=1, train_loss=0.5, train_accuracy=0.9)
    assert plot_history(history).axes[0].lines[0].get_marker() == "o"


def test_empty_history():
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_history(History())


def test_sample_grid(digits):
    figure = plot_samples(digits)
    assert figure.get_size_inches().tolist() == [15, 15]
    assert len(figure.axes) == 36
    for index, axes in enumerate(figure.axes):
        assert axes.get_title() == str(digits.labels[index])
        np.testing.assert_array_equal(axes.images[0].get_array(), digits.inputs[index])
        assert not axes.axison
    image = pixels(figure)
    assert image.shape == (750, 750, 3)
    assert (image < 40).all(-1).mean() > 0.3  # the black of the images


def test_sample_grid_of_few_examples(digits):
    few = digits.replace(inputs=digits.inputs[:4], labels=digits.labels[:4], class_names=())
    figure = plot_samples(few, rows=2, columns=3)
    assert [axes.get_title() for axes in figure.axes] == ["5", "0", "4", "1", "", ""]


def test_nothing_opens_a_window(history, digits):
    plot_history(history)
    plot_samples(digits)
    assert plt.get_fignums() == []


def test_bad_samples(digits):
    with pytest.raises(ValueError, match="3 images need as many titles; got 1"):
        plot_samples(digits, rows=1, columns=3, titles=["a"])
    with pytest.raises(ValueError, match=r"to be drawn; got shape \(500, 784\)"):
        plot_samples(digits.replace(inputs=digits.inputs.reshape(500, -1)))


def test_titles_replace_labels(digits):
    figure = plot_samples(digits, rows=1, columns=2, titles=["a", "b"])
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert figure.get_size_inches().tolist() == [5, 2.5]


def test_notebooks_display_figures_by_themselves(history):
    picture = plot_history(history)._repr_png_()
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (2000, 600)


def with_accuracies(*accuracies, seconds=2.0):
    return History.from_rows(
        {"epoch": epoch, "test_accuracy": accuracy, "seconds": seconds}
        for epoch, accuracy in enumerate(accuracies, 1)
    )


def test_runs_by_seconds():
    """Two networks at once: each counts half the seconds; the band is their deviation."""
    many = (with_accuracies(0.9, 0.96), with_accuracies(0.8, 0.98))
    axes = plot_runs({"one": with_accuracies(0.5, 0.7, 0.9), "two": many}).axes[0]
    one, two = axes.lines
    np.testing.assert_allclose(one.get_xydata(), [[2, 0.5], [4, 0.7], [6, 0.9]])
    np.testing.assert_allclose(two.get_xydata(), [[1, 0.85], [2, 0.97]])
    (band,) = axes.collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(0.85 - 0.1 / 2**0.5)
    assert edges.max() == pytest.approx(0.97 + 0.02 / 2**0.5)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]


@pytest.mark.parametrize("runs", [{}, {"untested": with_accuracies(0.5).append(epoch=2)}])
def test_runs_that_cannot_be_drawn(runs):
    with pytest.raises(ValueError, match=r"no run to plot|untested was not measured"):
        plot_runs(runs)
