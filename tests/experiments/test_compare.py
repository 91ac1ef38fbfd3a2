"""Runs drawn side by side."""

import shutil

import pytest
from PIL import Image

from experiments import compare
from tests.conftest import SLICE, mnist_rnn

pytestmark = pytest.mark.program


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
    compare.main()


def test_stored_runs(tmp_path, monkeypatch, capsys):
    small = ["keras", "--epochs", "2", *SLICE, "--workdir"]
    mnist_rnn(*small, tmp_path / "a")
    mnist_rnn(*small, tmp_path / "b", "--seeds", "2")
    shutil.copytree(tmp_path / "a", tmp_path / "unfinished" / "c")
    (tmp_path / "unfinished" / "c" / "results.json").unlink()
    output = ["--output", tmp_path / "runs.png"]
    run(monkeypatch, tmp_path, *output, "--metric", "validation_loss")
    assert capsys.readouterr().out.endswith(f"drew 2 runs in {tmp_path / 'runs.png'}\n")
    with Image.open(tmp_path / "runs.png") as picture:
        assert picture.size == (1000, 625)
    refuse(tmp_path / "unfinished", "holds no finished run", monkeypatch, capsys)
    run(monkeypatch, tmp_path / "unfinished" / "c", *output)  # as it was asked for
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "a", *output, "--metric", "f1")
    assert "f1 was not measured after every epoch of each" in capsys.readouterr().err


def refuse(directory, message, monkeypatch, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, directory, "--output", directory / "refused.png")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {directory} {message}\n"
    assert not (directory / "refused.png").exists()


def test_no_run(tmp_path, monkeypatch, capsys):
    refuse(tmp_path, "holds no finished run", monkeypatch, capsys)
