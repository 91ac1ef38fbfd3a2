"""What a run writes beside its checkpoints is made again, whatever became of it."""

import json
import shutil
from pathlib import Path

import pytest

import jaxrnn
from jaxrnn import History
from tests.shared import SLICE, mnist_rnn

RUN = ["keras", *SLICE, "--workdir", "run"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("made") / "run"
    mnist_rnn("keras", *SLICE, "--epochs", "1", "--workdir", workdir)
    return workdir


@pytest.fixture(autouse=True)
def folder(trained, tmp_path, monkeypatch):
    """Each test starts beside a finished run of an epoch."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.chdir(tmp_path)


def test_history_that_a_spreadsheet_saved():
    """It is not read, whatever became of it."""
    text = Path("run/history.csv").read_text()
    Path("run/history.csv").write_text("\ufeff" + text.replace(",", ";"), encoding="utf-8")
    mnist_rnn("resume", "run", "--epochs", "2")
    assert History.from_csv("run/history.csv") == jaxrnn.load_run("run").history


@pytest.mark.parametrize(
    ("content", "words"),
    [("[]", ["resume", "run"]), ('{"epochs": "1"}', [*RUN, "--epochs", "1"])],
)
def test_damaged_results_are_written_again(content, words):
    Path("run/results.json").write_text(content)
    mnist_rnn(*words)
    assert json.loads(Path("run/results.json").read_text())["epochs"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", ["resume", "run", "--epochs", "2"]), (None, [*RUN, "--epochs", "2"])],
)
def test_damaged_configuration_is_written_again(content, words, refuse):
    path = Path("run/config.json")
    before = json.loads(path.read_text())
    path.unlink() if content is None else path.write_text(content)
    assert "model.hidden (12 there, 99 here)" in refuse(*RUN, "--epochs", "2", "--hidden", "99")
    mnist_rnn("evaluate", "run")
    mnist_rnn(*words)
    before["trainer"]["epochs"] = 2
    after = json.loads(path.read_text())
    assert {**after, "runtime": None} == {**before, "runtime": None}


def test_files_that_systems_add_to_a_checkpoint(caplog):
    checkpoint = Path("run/checkpoints/1")
    for folder in (checkpoint.parent, *(path for path in checkpoint.rglob("*") if path.is_dir())):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._manifest.ocdbt"):
            (folder / name).write_bytes(b"\0\5\x16\7")
    mnist_rnn("resume", "run", "--epochs", "5")
    assert len(jaxrnn.load_run("run").history) == 5
    assert not caplog.messages


def test_pictures_that_fail_are_a_warning(monkeypatch, caplog):
    """At the start and at the end; other pictures are drawn, and results are there before them."""

    def draw(path, figure):
        if path.name in ("curves.png", "samples.png"):
            assert Path("new/results.json").exists() or path.name == "samples.png"
            raise RuntimeError("Unknown symbol:\n\\foo")
        path.write_bytes(b"")

    monkeypatch.setattr("jaxrnn.runs.results.write_figure", draw)
    mnist_rnn(*RUN[:-1], "new", "--epochs", "1")
    assert sorted(caplog.messages) == [
        f"new/{name}.png could not be drawn: Unknown symbol: \\foo"
        for name in ("curves", "samples")
    ]
    assert Path("new/confusion.png").exists()
