"""Pictures, looked at through matplotlib's own objects and through their pixels."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from jaxrnn import History, Split
from jaxrnn.plotting import plot_confusion, plot_history, plot_runs, plot_samples, plot_sweep


def curves(**columns):
    """Return a history of these columns."""
    rows = zip(*columns.values(), strict=True)
    return History.from_rows(
        {"epoch": epoch, **dict(zip(columns, row, strict=True))}
        for epoch, row in enumerate(rows, start=1)
    )


@pytest.fixture
def history():
    return curves(
        train_loss=[1, 0.5, 0.3], train_accuracy=[0.5, 0.8, 0.9],
        test_loss=[2, 1, 0.7], test_accuracy=[0.1, 0.5, 0.6], seconds=[1.0, 1.0, 1.0],
    )  # fmt: skip


def with_accuracies(*values):
    return curves(test_accuracy=values, seconds=[2.0] * len(values))


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    return np.asarray(Image.open(buffer).convert("RGB"))


def texts_of(artists):
    return [artist.get_text() for artist in artists]


def test_history_has_a_labelled_panel_for_each_metric(history):
    figure = plot_history(history)
    assert figure.get_size_inches().tolist() == [20, 6]
    assert [axes.get_xlabel() for axes in figure.axes] == ["Epochs", "Epochs"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Accuracy", "Cross Entropy"]
    for axes, metric in zip(figure.axes, ("accuracy", "loss"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == ["Train Set", "Test Set"]  # validation was not measured
        assert texts_of(axes.get_legend().get_texts()) == list(lines)
        np.testing.assert_array_equal(lines["Test Set"].get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(lines["Test Set"].get_ydata(), history[f"test_{metric}"])
    assert (pixels(figure) < 200).any(-1).mean() > 0.01


def test_baselines_are_drawn_with_their_values():
    history = curves(train_loss=[1, 0.1, 0.01], train_accuracy=[1.0, 2.0, 3.0])
    accuracy, loss = plot_history(history, {"loss": {"gzip": 0.5, "xz": 0.25}}).axes
    labels = {line.get_label(): line.get_ydata()[0] for line in loss.lines}
    assert labels == {"Train Set": 1.0, "gzip, 0.5": 0.5, "xz, 0.25": 0.25}
    assert (accuracy.get_yscale(), loss.get_yscale()) == ("linear", "log")
    assert len(accuracy.lines) == 1


def test_epochs_that_were_not_measured_are_left_out():
    history = curves(
        train_loss=[3, 2, 1],
        test_loss=[np.nan, 2, 1.5],
        train_f1=[np.nan] * 3,
        test_f1=[np.nan] * 3,
    )
    (axes,) = plot_history(history).axes
    assert axes.get_ylabel() == "Loss"
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2, 3], [2, 3]]


@pytest.mark.parametrize("epochs", [1, 3, 100])
def test_epochs_are_marked_by_whole_numbers(epochs):
    figure = plot_history(curves(train_loss=np.linspace(1, 0.1, epochs)))
    pixels(figure)
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks == [*map(round, ticks)] != []
    assert (low, high) == (0.5, epochs + 0.5)
    assert (axes.lines[0].get_marker() == "o") == (epochs == 1)


def test_sample_grid(digits):
    figure = plot_samples(digits)
    assert figure.get_size_inches().tolist() == [15, 15]
    (axes,) = figure.axes
    assert not axes.axison
    assert texts_of(axes.texts) == list(map(str, digits.labels[:36]))
    for index, image in enumerate(axes.images):
        np.testing.assert_array_equal(image.get_array(), digits.inputs[index])
        left, right, bottom, top = image.get_extent()
        assert (left, top) == (35 * (index % 6), 35 * (index // 6))
        assert (right - left, bottom - top) == (28, 28)
    assert (pixels(figure) < 40).all(-1).mean() > 0.3  # the black of the images


def test_samples_have_their_colors():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    split = Split(images.reshape(4, 5, 18), np.arange(4), channels=3)
    figures = plot_samples(split), plot_samples(Split(np.full((4, 5, 6), 128, np.uint8)))
    colored, gray = (figure.axes[0].images[0] for figure in figures)
    np.testing.assert_array_equal(colored.get_array(), images[0])
    assert gray.get_clim() == (0, 255)


@pytest.mark.parametrize("shape", [(8, 200), (64, 2)])
def test_titles_of_samples_do_not_overlap(shape):
    split = Split(
        np.zeros((36, *shape), np.uint8),
        np.full(36, 7),
        class_names=[f"seven{n}" for n in range(8)],
    )
    figure = plot_samples(split)
    pixels(figure)  # text has a place once it is drawn
    (axes,) = figure.axes
    boxes = [part.get_window_extent() for part in (*axes.images, *axes.texts)]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


def test_sample_grid_of_few_examples_and_of_titles(digits):
    few = digits.replace(inputs=digits.inputs[:4], labels=digits.labels[:4], class_names=())
    assert texts_of(plot_samples(few, rows=2, columns=3).axes[0].texts) == ["5", "0", "4", "1"]
    numbers = Split(few.inputs, targets=np.array([0.5, 1, 1.5, 2]))
    assert texts_of(plot_samples(numbers).axes[0].texts) == ["0.5", "1.0", "1.5", "2.0"]
    figure = plot_samples(digits, rows=1, columns=2, titles=["a", "b"])
    assert texts_of(figure.axes[0].texts) == ["a", "b"]
    assert figure.get_size_inches().tolist() == [5, 2.5]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_samples(Split(np.zeros((2, 3), np.uint8))), r"shape \(2, 3\)"),
        (lambda: plot_runs({}), "no run to plot"),
        (lambda: plot_runs({"a": with_accuracies(0.5).append(epoch=2)}), "measured .*: a"),
        (lambda: plot_runs({"a": with_accuracies(0.5)}, "test_loss"), "test_loss was not"),
    ],
)
def test_invalid_inputs(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_notebooks_display_figures_that_open_no_window(history):
    with Image.open(io.BytesIO(plot_history(history)._repr_png_())) as image:
        assert image.size == (2000, 600)
    assert plt.get_fignums() == []


def test_several_runs_are_a_mean_in_a_band():
    """Of the epochs that all of them have."""
    several = (with_accuracies(0.9, 0.96), with_accuracies(0.8, 0.98, 1.0))
    axes = plot_runs({"one": with_accuracies(0.5, 0.7, 0.9), "two": several}).axes[0]
    one, two = axes.lines
    np.testing.assert_allclose(one.get_xydata(), [[2, 0.5], [4, 0.7], [6, 0.9]])
    np.testing.assert_allclose(two.get_xydata(), [[2, 0.85], [4, 0.97]])
    assert texts_of(axes.figure.legends[0].get_texts()) == ["one", "two"]
    (history,) = plot_history(several).axes
    np.testing.assert_allclose(history.lines[0].get_ydata(), [0.85, 0.97])
    for band in (*axes.collections, *history.collections):
        edges = band.get_paths()[0].vertices[:, 1]
        assert edges.min() == pytest.approx(0.85 - 0.1 / 2**0.5)
        assert edges.max() == pytest.approx(0.97 + 0.02 / 2**0.5)


def test_many_runs_have_distinct_colors_and_the_metric_that_all_measured():
    history = History().append(epoch=1, train_loss=3, held_out_loss=2, held_out_rmse=1, seconds=1)
    axes = plot_runs({f"run {n}": history for n in range(30)}).axes[0]
    assert axes.get_ylabel() == "Held Out Rmse"
    assert len({tuple(line.get_color()) for line in axes.lines}) == 30
    assert plot_runs({"a": history}, "held_out_loss").axes[0].lines[0].get_ydata() == [2]


def test_accuracies_of_zero_and_one_are_drawn():
    figure = plot_runs({"perfect": with_accuracies(0.0, 0.9, 1.0)})
    figure.draw_without_rendering()
    (line,) = figure.axes[0].lines
    assert np.isfinite(figure.axes[0].transData.transform(line.get_xydata())).all()
    low, high = figure.axes[0].get_ylim()
    assert low <= min(line.get_ydata()) < max(line.get_ydata()) <= high


def axes_of_sweep(varied, *values):
    """Draw a sweep whose metric is 0, 1, 2, …"""
    metrics = ({"test_rmse": mean, "test_rmse_deviation": 0.5} for mean in range(len(values)))
    rows = [dict(zip(varied, row, strict=True)) | next(metrics) for row in values]
    return plot_sweep(rows, varied, "test_rmse").axes[0]


def test_sweep_of_a_number_is_a_curve_in_a_band():
    axes = axes_of_sweep("a", [1e-3], [1e-2], [0.1])
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1e-3, 0], [1e-2, 1], [0.1, 2]])
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == 2.5
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "a", "test rmse")


def test_sweep_of_two_options_is_a_grid():
    axes = axes_of_sweep("ab", [1, "x"], [1, "y"], [2, "y"])
    np.testing.assert_array_equal(axes.images[0].get_array().filled(-1), [[0, 1], [-1, 2]])
    assert texts_of(axes.get_xticklabels()) == ["x", "y"]
    assert texts_of(axes.get_yticklabels()) == ["1", "2"]


def test_other_sweeps_are_points_with_error_bars():
    axes = axes_of_sweep("a", ["x"], [None])
    assert texts_of(axes.get_yticklabels()) == ["x", "None"]
    assert axes.lines[0].get_xdata().tolist() == [0, 1]


def test_text_is_not_read_as_a_formula(digits):
    name, plain = r"$\foo$ \$", r"\$\foo\$ \\$"
    split = digits.replace(labels=digits.labels % 2, class_names=(name, "b"))
    history = curves(test_accuracy=[0.5], seconds=[1.0])
    figures = [
        plot_samples(split),
        plot_confusion(split, np.eye(2)[1 - split.labels]),
        plot_history(history, {"accuracy": {name: 1.0}}),
        plot_runs({name: history}),
        axes_of_sweep([name], [1], [2]).figure,
        axes_of_sweep([name], [name]).figure,
        axes_of_sweep([name, "b"], [name, 1]).figure,
    ]
    for figure in figures:
        pixels(figure)  # raises ValueError if it is read
        assert any(plain in text for text in texts_of(figure.findobj(Text)))


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
    assert texts_of(pairs.get_yticklabels()) == ["4 → 9"]
    assert [bar.get_width() for bar in pairs.patches] == [2]
    assert texts_of(mistakes.texts) == ["4 → 9, 100%", "4 → 9, 69%"]
    np.testing.assert_array_equal(mistakes.images[0].get_array(), split.inputs[1])
    assert pixels(figure).shape == (395, 600, 3)


def test_confusion_without_mistakes_or_images(digits):
    perfect = plot_confusion(digits, np.eye(10)[digits.labels])
    assert perfect.axes[0].get_title() == "0 of 500 examples (0.00%) are misclassified"
    assert len(perfect.axes) == 2
    pixels(perfect)
    numbers = digits.replace(inputs=np.zeros((500, 3, 1), np.float32))
    assert len(plot_confusion(numbers, np.eye(10)[digits.labels - 1]).axes) == 2
