"""Runs drawn side by side."""

import pytest
from PIL import Image

from experiments import compare
from tests.conftest import mnist_rnn


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
    compare.main()


def test_stored_runs(tmp_path, monkeypatch, capsys):
    small = ["--hidden", "4", "--epochs", "2", "--test", "test[:100]"]
    small += ["--train", "train[:300]", "--workdir"]
    mnist_rnn("fast", *small, tmp_path / "a")
    mnist_rnn("tf1", "--seeds", "2", *small, tmp_path / "b")
    run(monkeypatch, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "runs.png")
    assert capsys.readouterr().out.endswith(f"drew 2 runs in {tmp_path / 'runs.png'}\n")
    with Image.open(tmp_path / "runs.png") as picture:
        assert picture.size == (1000, 600)


def test_no_run(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, tmp_path, "--output", tmp_path / "runs.png")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path} has no checkpoint of a run\n"
    assert not (tmp_path / "runs.png").exists()
