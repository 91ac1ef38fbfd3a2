"""Runs drawn side by side."""

import pytest
from PIL import Image

from experiments import compare
from jaxrnn import History


def store(workdir, *, finished=True):
    """Write what compare reads of a run of two epochs."""
    (workdir / "checkpoints").mkdir(parents=True)
    history = History()
    for epoch in (1, 2):
        history = history.append(epoch=epoch, test_accuracy=1 - 0.1 / epoch, seconds=2.0)
    history.to_csv(workdir / "history.csv")
    if finished:
        (workdir / "results.json").touch()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("a", "seeds/seed-0", "seeds/seed-1", "widths/hidden=8/seed-0"):
        store(tmp_path / "runs" / run)
    store(tmp_path / "runs" / "unfinished" / "b", finished=False)
    for sweep in ("seeds", "widths"):
        (tmp_path / "runs" / sweep / "sweep.json").touch()
    return tmp_path / "runs"


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
    compare.main()


def test_seeds_of_a_sweep_are_one_line(runs):
    lines = compare.read([runs, runs / "seeds"])
    assert {name: len(histories) for name, histories in lines.items()} == {
        "a": 1, "seeds": 2, "hidden=8": 1,
    }  # fmt: skip
    assert compare.read([runs / "unfinished" / "b"]).keys() == {"b"}  # as it was asked for
    for run in ("b/c/a", "d/c/a"):
        store(runs / run)
    names = {"runs/a", "b/c/a", "d/c/a", "seeds", "hidden=8"}
    assert compare.read([runs]).keys() == names


def test_figure(runs, monkeypatch, capsys):
    run(monkeypatch, "runs", "--metric", "test_accuracy")
    assert capsys.readouterr().out == "drew 4 runs in runs.png\n"
    with Image.open("runs.png") as picture:
        assert picture.size == (1000, 625)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/unfinished"], "/runs/unfinished holds no finished run"),
        (["runs/a", "--metric", "f1"], "f1 was not measured after every epoch of all"),
    ],
)
def test_errors_are_one_line(runs, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, *words)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (runs.parent / "runs.png").exists()
