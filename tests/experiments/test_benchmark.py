"""The benchmark measures what it says, on a slice too small to mean anything."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.benchmark import peers, process, scaling
from experiments.benchmark.__main__ import main
from experiments.benchmark.contenders import CONTENDERS
from experiments.benchmark.protocol import Options
from experiments.benchmark.report import plot_scaling, print_times, step_flops

pytestmark = pytest.mark.program


def run(arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
    main()


def test_one_row_a_contender(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "REST", 0)
    options = ["--examples", "330", "--hidden", "8", "--repeats", "1", "--only"]
    run([*options, "Flax nn.RNN", "--workdir", str(tmp_path)], monkeypatch)
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["jaxrnn", "Flax nn.RNN"]
    for row in rows:
        assert row["examples_per_second"] == pytest.approx(300 / row["seconds_per_epoch"])
        gflop = 2 * step_flops(150, 28, 28, 8) / 1e9
        assert row["gflops"] == pytest.approx(gflop / row["seconds_per_epoch"])
        assert row["seconds_min"] <= row["seconds_per_epoch"] <= row["seconds_max"]
        assert 0 < row["sgemm_fraction"] < 1
        assert row["peak_rss_bytes"] > 50 * 2**20
    assert rows[0]["ratio"] == 1
    table = capsys.readouterr().out
    assert f"| Flax nn.RNN | {rows[1]['seconds_per_epoch']:.2f} (" in table
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert picture.size[0] == 800


def test_time_to_accuracy(tmp_path, monkeypatch, capsys):
    """With 8 units 0.2 is reached in the first epoch."""
    monkeypatch.setattr(peers, "REST", 0)
    monkeypatch.setattr(peers, "PRESETS_EPOCHS", {"jaxrnn sprint": 1})
    options = ["--hidden", "8", "--repeats", "1", "--accuracy", "0.2", "--only", "sgemm"]
    run([*options, "--workdir", str(tmp_path)], monkeypatch)
    (row,) = json.loads((tmp_path / "accuracy.json").read_text())["rows"]
    assert (row["name"], row["epochs"], row["median_epochs"]) == ("jaxrnn sprint", [1], 1)
    assert row["median_seconds"] == row["seconds"][0] > 0
    assert "| jaxrnn sprint | 1 | " in capsys.readouterr().out


def test_accuracy_that_is_never_reached(capsys):
    rows = [
        {"name": "a", "seconds": [2.0, None, 1.0], "median_seconds": 2.0, "median_epochs": 3.0},
        {"name": "b", "seconds": [None, None, 1.0], "median_seconds": None, "median_epochs": None},
        {"name": "c", "seconds": [0.5, 1.0, 0.2], "median_seconds": 0.5, "median_epochs": 1.0},
    ]
    print_times(rows, 0.9)
    table = capsys.readouterr().out
    assert "| a | 3 | 2.0 (1.0 … 2.0, 1 of 3 seeds never) | 4.0 × (4.0 … 5.0) |" in table
    assert "| b | | 2 of 3 seeds never | |" in table
    assert "| c | 1 | 0.5 (0.2 … 1.0) | 1.0 × |" in table


@pytest.mark.parametrize("name", ["jaxrnn", "jaxrnn in NNX", "Flax nn.RNN", "Flax nnx.RNN"])
def test_contenders_learn(digits, name):
    build, _, _ = CONTENDERS[name]
    images, labels = np.asarray(digits.inputs), np.asarray(digits.labels)
    epoch, predict = build(images, labels, Options(16, batch_size=10))
    before = np.mean(predict(images) == labels)
    for _ in range(10):
        epoch()
    assert np.mean(predict(images) == labels) > before + 0.2


def test_work_of_a_step():
    """The operations of the notebooks' network, counted by hand."""
    projections, recurrence, head = 150 * 28 * 28 * 150, 150 * 28 * 150 * 150, 150 * 150 * 10
    assert step_flops(150, 28, 28, 150) == 4 * projections + 6 * recurrence + 6 * head


def test_scaling(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "SCALES", {"time": (56,)})
    monkeypatch.setattr(scaling, "PROCESSES", (2,))
    experiments = iter(range(1, 100))  # what is run is tested by itself, and takes its time
    seconds = {"jaxrnn": [1.0, 3.0, 2.0], "Flax nn.RNN": [4.0, 3.0, 4.0]}
    seconds |= {"jaxrnn in NNX": [1.0, 1.0, 2.0], "Flax nnx.RNN": [3.0, 3.0, 3.0]}
    seconds |= {"PyTorch nn.RNN": [5.0, 5.0, 5.0]}
    monkeypatch.setattr(scaling, "wanted", lambda only: only)  # whether it is installed or not
    monkeypatch.setattr(scaling, "take_turns", lambda *_: (seconds, None))
    monkeypatch.setattr(scaling, "run_experiment", lambda *_, **__: next(experiments))
    run(["--scaling", "--examples", "400", "--workdir", str(tmp_path)], monkeypatch)
    printed = capsys.readouterr().out
    assert "; PyTorch nn.RNN " in printed
    assert "smallest ratio of Flax nn.RNN to jaxrnn: 2.00 ×, at time 56\n" in printed
    assert "smallest ratio of Flax nnx.RNN to jaxrnn in NNX: 3.00 ×, at time 56\n" in printed
    row, of_two, of_data = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert (row["axis"], row["size"]) == ("time", 56)
    assert row["Flax nn.RNN"] / row["jaxrnn"] == row["jaxrnn ratio"] == pytest.approx(2)
    assert of_two == {
        "axis": "processes", "size": 2, "one process": 1, "several processes": 2,
    }  # fmt: skip
    assert (of_data["memory"], of_data["stream"], of_data["one worker"]) == (6, 7, 8)
    assert of_data["stream ratio"] == pytest.approx(7 / 6)


def test_seconds_of_a_run_on_two_processes():
    words = ["--epochs", "2", "--hidden", "8", "--train", "train[:400]", "--batch-size", "100"]
    assert 0 < scaling.run_experiment([*words, "--stream"], processes=2) < 1


def test_scaling_picture():
    sizes = [(axis, size) for axis in scaling.SCALES for size in scaling.SCALES[axis]]
    ratio = {"jaxrnn ratio": 2}
    rows = [
        {"axis": axis, "size": n, "jaxrnn": n, "Flax nn.RNN": 2 * n, **ratio} for axis, n in sizes
    ]
    rows += [
        {"axis": "processes", "size": count, "one process": 1, "several processes": 2}
        for count in scaling.PROCESSES
    ]
    panels = plot_scaling([*rows, {"axis": "data"}]).axes
    both = ["jaxrnn", "Flax nn.RNN"]
    assert {axes.get_xlabel(): [line.get_label() for line in axes.lines] for axes in panels} == {
        **{"Batch size": both, "Hidden units": both, "Time steps": both},
        "Devices": ["one process", "several processes"],
    }


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Programs end at once, and say with which arguments."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "cannot run $@" >&2; exit 1')
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))


@pytest.mark.usefixtures("failing")
def test_programs_that_fail_are_explained():
    with (
        process.contender("jaxrnn", "data.npz", Options(8, 10)) as ask,
        pytest.raises(RuntimeError, match=r"(?s)jaxrnn failed:.*cannot run .*data\.npz"),
    ):
        ask("epoch")
    with pytest.raises(RuntimeError, match=r"(?s)failed:.*cannot run .*--hidden 8"):
        scaling.run_experiment(["--hidden", "8"])


@pytest.mark.parametrize(
    "arguments", [["--only", "caffe"], ["--repeats", "0"], ["--examples", "9"], ["--accuracy", "2"]]
)
def test_bad_input(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(arguments, monkeypatch)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: --only takes some of jaxrnn")
