"""Pictures, looked at through matplotlib's own objects and through their pixels."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from jaxrnn import History, Split
from jaxrnn.plotting import plot_confusion, plot_history, plot_runs, plot_samples


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


def test_baselines_are_drawn_with_their_values():
    history = History()
    for epoch, loss in enumerate((1.0, 0.1, 0.01), 1):
        history = history.append(epoch=epoch, train_loss=loss, train_accuracy=loss)
    accuracy, loss = plot_history(history, {"loss": {"gzip": 0.5, "xz": 0.25}}).axes
    labels = {line.get_label(): line.get_ydata()[0] for line in loss.lines}
    assert labels == {"Train Set": 1.0, "gzip, 0.5": 0.5, "xz, 0.25": 0.25}
    assert (accuracy.get_yscale(), loss.get_yscale()) == ("linear", "log")
    assert len(accuracy.lines) == 1


def test_curves_are_drawn(history):
    image = pixels(plot_history(history))
    assert image.shape == (300, 1000, 3)
    for color in ((31, 119, 180), (255, 127, 14)):  # matplotlib's first two
        drawn = (np.abs(image.astype(int) - color) < 8).all(-1)
        assert drawn[:, :500].sum() > 10
        assert drawn[:, 500:].sum() > 10


def test_one_epoch_is_visible():
    history = History().append(epoch=1, train_loss=0.5, train_accuracy=0.9)
    assert plot_history(history).axes[0].lines[0].get_marker() == "o"


def test_empty_history():
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_history(History())


def test_sample_grid(digits):
    figure = plot_samples(digits)
    assert figure.get_size_inches().tolist() == [15, 15]
    (axes,) = figure.axes
    assert not axes.axison
    assert len(axes.images) == len(axes.texts) == 36
    for index, (image, text) in enumerate(zip(axes.images, axes.texts, strict=True)):
        assert text.get_text() == str(digits.labels[index])
        np.testing.assert_array_equal(image.get_array(), digits.inputs[index])
        left, right, bottom, top = image.get_extent()
        assert (left, top) == (35 * (index % 6), 35 * (index // 6))
        assert (right - left, bottom - top) == (28, 28)
    image = pixels(figure)
    assert image.shape == (750, 750, 3)
    assert (image < 40).all(-1).mean() > 0.3  # the black of the images


@pytest.mark.parametrize("shape", [(8, 200), (64, 2)])
def test_titles_of_samples_do_not_overlap(shape):
    split = Split(np.zeros((36, *shape), np.uint8), np.full(36, 7), class_names=("seven",) * 8)
    figure = plot_samples(split)
    pixels(figure)  # text has a place once it is drawn
    (axes,) = figure.axes
    boxes = [part.get_window_extent() for part in (*axes.images, *axes.texts)]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


def test_sample_grid_of_few_examples(digits):
    few = digits.replace(inputs=digits.inputs[:4], labels=digits.labels[:4], class_names=())
    figure = plot_samples(few, rows=2, columns=3)
    assert [text.get_text() for text in figure.axes[0].texts] == ["5", "0", "4", "1"]


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
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b"]
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
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["one", "two"]


@pytest.mark.parametrize("runs", [{}, {"untested": with_accuracies(0.5).append(epoch=2)}])
def test_runs_that_cannot_be_drawn(runs):
    with pytest.raises(ValueError, match=r"no run to plot|not measured after .*: untested"):
        plot_runs(runs)


def test_many_runs_of_another_task():
    """Every one has a color of its own; what all of them have measured is drawn."""
    history = History().append(epoch=1, train_loss=3, held_out_loss=2, held_out_rmse=1, seconds=1)
    axes = plot_runs({f"run {n}": history for n in range(30)}).axes[0]
    assert axes.get_ylabel() == "Held Out Rmse"
    assert len({tuple(line.get_color()) for line in axes.lines}) == 30
    axes = plot_runs({"a": history}, "held_out_loss").axes[0]
    assert axes.lines[0].get_ydata() == [2]
    with pytest.raises(ValueError, match="test_loss was not measured"):
        plot_runs({"a": history}, "test_loss")


@pytest.mark.parametrize("epochs", [1, 3, 100])
def test_epochs_are_marked_by_whole_numbers(epochs):
    history = History.from_rows({"epoch": n, "train_loss": 1 / n} for n in range(1, epochs + 1))
    figure = plot_history(history)
    pixels(figure)
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)
    assert (low, high) == (0.5, epochs + 0.5)


def test_confusion(digits):
    """Of five 0s, 4s and 9s, one 4 is taken for a 9 with certainty and another nearly."""
    labels = np.array([0, 4, 4, 9, 4], np.int32)
    logits = np.zeros((5, 10))
    logits[range(5), [0, 9, 9, 9, 4]] = [5, 50, 3, 5, 5]
    split = digits.replace(inputs=digits.inputs[:5], labels=labels)
    figure = plot_confusion(split, logits, worst=3)
    matrix, pairs, mistakes = figure.axes
    assert matrix.get_title() == "2 of 5 examples (40.00%) are misclassified"
    assert {(*text.get_position(), text.get_text()) for text in matrix.texts} == {
        (0, 0, "1"), (9, 4, "2"), (4, 4, "1"), (9, 9, "1"),
    }  # fmt: skip
    assert [label.get_text() for label in pairs.get_yticklabels()] == ["4 → 9"]
    assert [bar.get_width() for bar in pairs.patches] == [2]
    assert [text.get_text() for text in mistakes.texts] == ["4 → 9, 100%", "4 → 9, 69%"]
    np.testing.assert_array_equal(mistakes.images[0].get_array(), split.inputs[1])
    assert len(mistakes.images) == 2
    assert pixels(figure).shape == (395, 600, 3)


def test_confusion_without_mistakes_or_images(digits):
    perfect = plot_confusion(digits, np.eye(10)[digits.labels])
    assert perfect.axes[0].get_title() == "0 of 500 examples (0.00%) are misclassified"
    assert len(perfect.axes) == 2
    pixels(perfect)
    numbers = digits.replace(inputs=np.zeros((500, 3, 1), np.float32))
    assert len(plot_confusion(numbers, np.eye(10)[digits.labels - 1]).axes) == 2
    with pytest.raises(ValueError, match=r"got \(500,\) and \(5, 10\)"):
        plot_confusion(digits, np.zeros((5, 10)))


def test_an_accuracy_of_one_is_drawn():
    history = History()
    for epoch, accuracy in enumerate((0.0, 0.9, 1.0), 1):
        history = history.append(epoch=epoch, test_accuracy=accuracy, seconds=1.0)
    figure = plot_runs({"perfect": history})
    figure.draw_without_rendering()
    (line,) = figure.axes[0].lines
    shown = figure.axes[0].transData.transform(line.get_xydata())
    assert np.isfinite(shown).all()
    low, high = figure.axes[0].get_ylim()
    assert low <= min(line.get_ydata()) < max(line.get_ydata()) <= high
