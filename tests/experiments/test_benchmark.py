"""The benchmark measures what it says, on a slice too small to mean anything."""

import json

import pytest
from PIL import Image

from experiments.benchmark import peers, process, scaling
from experiments.benchmark.__main__ import main
from experiments.benchmark.protocol import Options
from experiments.benchmark.report import plot_scaling, print_times, step_flops

pytestmark = pytest.mark.program


def run(arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
    main()


def test_one_row_a_contender(tmp_path, monkeypatch, capsys):
    options = ["--examples", "330", "--hidden", "8", "--repeats", "2", "--only"]
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
    """With 8 units 0.2 is reached soon."""
    monkeypatch.setattr(peers, "PRESETS_EPOCHS", {"jaxrnn sprint": 1})
    monkeypatch.setattr(peers, "MAX_EPOCHS", 20)
    options = ["--examples", "1000", "--hidden", "8", "--repeats", "1", "--only", "jaxrnn"]
    run([*options, "--accuracy", "0.2", "--workdir", str(tmp_path)], monkeypatch)
    rows = json.loads((tmp_path / "accuracy.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["jaxrnn sprint", "jaxrnn"]
    assert rows[0]["epochs"] == [1]
    for row in rows:
        assert row["median_epochs"] == row["epochs"][0] >= 1
        assert row["median_seconds"] == row["seconds"][0] > 0
    assert "| jaxrnn sprint | 1 | " in capsys.readouterr().out


def test_accuracy_that_is_never_reached(capsys):
    """Never takes longest: if most seeds never get there, there is no median."""
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


@pytest.mark.parametrize("name", ["Flax nn.RNN", "Flax nnx.RNN"])
def test_contenders_learn(digits, name):  # jaxrnn does in test_time_to_accuracy
    with process.saved(digits, digits) as data:  # noqa: SIM117
        with process.contender(name, data, Options(16, batch_size=10)) as ask:
            before = ask("test")["accuracy"]
            for _ in range(10):
                ask("epoch")
            assert ask("test")["accuracy"] > before + 0.2


def test_work_of_a_step():
    """637 million operations, counted by hand for the notebooks' network."""
    projections, recurrence, head = 150 * 28 * 28 * 150, 150 * 28 * 150 * 150, 150 * 150 * 10
    assert step_flops(150, 28, 28, 150) == 4 * projections + 6 * recurrence + 6 * head
    assert round(step_flops(150, 28, 28, 150) / 1e6) == 639


def test_scaling(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "SCALES", {"time": (56,)})
    monkeypatch.setattr(scaling, "PROCESSES", (2,))
    experiments = iter(range(1, 100))  # what is run is tested by itself, and takes its time
    seconds = {"jaxrnn": [1.0, 3.0, 2.0], "Flax nn.RNN": [4.0, 3.0, 4.0]}
    monkeypatch.setattr(scaling, "take_turns", lambda *_: (seconds, None))
    monkeypatch.setattr(scaling, "run_experiment", lambda *_, **__: next(experiments))
    options = ["--scaling", "--examples", "400", "--repeats", "1", "--workdir"]
    run([*options, str(tmp_path)], monkeypatch)
    assert "smallest ratio of Flax to jaxrnn: 2.00 ×, at time 56\n" in capsys.readouterr().out
    row, of_two, of_data = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert (row["axis"], row["size"]) == ("time", 56)
    assert row["Flax nn.RNN"] / row["jaxrnn"] == row["ratio"] == pytest.approx(2)
    assert of_two == {
        "axis": "processes", "size": 2, "one process": 1, "several processes": 2,
    }  # fmt: skip
    assert (of_data["memory"], of_data["stream"], of_data["one worker"]) == (6, 7, 8)
    assert of_data["stream ratio"] == pytest.approx(7 / 6)


def test_seconds_of_a_run_on_two_processes():
    words = ["--epochs", "2", "--hidden", "8", "--train", "train[:400]", "--batch-size", "100"]
    assert 0 < scaling.run_experiment([*words, "--stream"], processes=2) < 1
    with pytest.raises(RuntimeError, match="unknown option --no-such-option"):
        scaling.run_experiment([*words, "--no-such-option"])


def test_scaling_picture():
    rows = [
        {"axis": axis, "size": size, "jaxrnn": 1e-5 * size, "Flax nn.RNN": 2e-5 * size}
        for axis, sizes in scaling.SCALES.items()
        for size in sizes
    ]
    rows += [
        {"axis": "processes", "size": count, "one process": 1e-5, "several processes": 2e-5}
        for count in scaling.PROCESSES
    ]
    panels = plot_scaling([*rows, {"axis": "data"}]).axes
    labels = [axes.get_xlabel() for axes in panels]
    assert labels == ["Batch size", "Hidden units", "Time steps", "Devices"]
    for axes in panels:
        assert axes.get_xscale() == axes.get_yscale() == "log"
        names = ["jaxrnn", "Flax nn.RNN"]
        if axes is panels[-1]:
            names = ["one process", "several processes"]
        assert [line.get_label() for line in axes.lines] == names


def test_failing_contender_is_explained(tmp_path):
    with process.contender("jaxrnn", str(tmp_path / "none.npz"), Options(8, 10)) as ask:  # noqa: SIM117
        with pytest.raises(RuntimeError, match=r"(?s)jaxrnn failed:.*none\.npz"):
            ask("epoch")


@pytest.mark.parametrize(
    "arguments", [["--only", "caffe"], ["--repeats", "0"], ["--examples", "9"], ["--accuracy", "2"]]
)
def test_bad_input(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(arguments, monkeypatch)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: --only takes some of jaxrnn")
