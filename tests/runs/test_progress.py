"""Progress: lines where there is no terminal, a bar on one; and what ended reading."""

import io
import re
import sys
from types import SimpleNamespace

import jax
import pytest

import jaxrnn
from jaxrnn import History
from jaxrnn.runs import Progress
from jaxrnn.runs.interruptions import reading

ROWS = {"train_loss": 0.5, "train_accuracy": 0.25, "test_loss": 0.5, "test_accuracy": 2e-5}
STATE = SimpleNamespace(task=jaxrnn.Classification())


def show(progress):
    """What fit does in two epochs."""
    history = History()
    for epoch in (1, 2):
        progress.during(epoch, 0.5)
        history = history.append(epoch=epoch, **ROWS, seconds=0.5)
        progress(jaxrnn.training.Record(STATE, history, jax.random.key(0), 500, {}))


def test_lines_where_there_is_no_terminal(capsys):
    with Progress(2) as progress:
        show(progress)
    shown = "loss 0.5000, accuracy 0.2500, test accuracy 2e-05, 1,000 examples/s"
    assert capsys.readouterr().out.splitlines() == [f"epoch {n}/2: {shown}" for n in (1, 2)]


@pytest.mark.parametrize("columns", [40, 100])
def test_bar_keeps_to_the_width_of_the_terminal(columns, monkeypatch):
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (columns, 24))
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress(2) as progress:
        assert "epoch 1/2   0%" in terminal.getvalue()
        show(progress)
    shown = terminal.getvalue()
    assert max(map(len, re.split(r"[\r\n]+", shown))) <= columns
    assert "epoch 2/2 100%" in shown
    assert "loss" in shown
    assert ("examples/s" in shown) == (columns == 100)


def test_error_names_small_shared_memory(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**26))
    message = r"has ended; /dev/shm has only 64 MiB left: .*worker 0"
    with pytest.raises(OSError, match=message), reading():
        raise RuntimeError("Worker process was terminated: worker 0")


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="a hook's own"), reading():
        raise RuntimeError("a hook's own")
