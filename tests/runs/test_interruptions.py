"""Signals, empty options, and runs of notebooks."""

import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import jaxrnn
from experiments.mnist_rnn import PRESETS, MnistRNN
from jaxrnn import History
from jaxrnn.runs import RuntimeConfig
from jaxrnn.runs.interruptions import interruption
from tests.shared import SLICE, mnist_rnn

pytestmark = pytest.mark.usefixtures("folder")
ROOT = Path(__file__).parents[2]
HANDLED = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"]


def handlers():
    return {name: signal.getsignal(getattr(signal, name)) for name in HANDLED}


def stop_by(number, monkeypatch, *, epoch=1):
    """Send a signal in an epoch."""
    write = History.to_csv

    def signal_and_write(history, path):
        if len(history) == epoch:
            os.kill(os.getpid(), number)
            time.sleep(0.1)  # in which a thread notices
        write(history, path)

    monkeypatch.setattr(History, "to_csv", signal_and_write)


@pytest.mark.parametrize("name", HANDLED)
def test_signals_are_taken_only_while_training(name, monkeypatch):
    number = getattr(signal, name)
    received = []
    previous = signal.signal(number, lambda *_: received.append(name))
    signal.signal(number, signal.SIG_DFL)
    try:
        with interruption() as interrupted:
            assert interrupted.received is None
            assert signal.getsignal(number) != signal.SIG_DFL
            os.kill(os.getpid(), number)
            while interrupted.received is None:
                time.sleep(0.01)
            assert interrupted.exit_status == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, previous)


def test_ignored_and_handled_signals_are_left_alone():
    """As nohup ignores SIGHUP, and launchers of jobs handle SIGUSR2."""
    own = lambda *_: None  # noqa: E731
    previous = [signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR2, own)]
    try:
        with interruption():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGUSR2) is own
    finally:
        signal.signal(signal.SIGHUP, previous[0])
        signal.signal(signal.SIGUSR2, previous[1])


@pytest.mark.parametrize("words", [[], ["--seeds", "2"]])
def test_handlers_are_as_before(words, monkeypatch, capsys):
    """After a run, an error and a signal; with several runs, too."""
    before = handlers(), signal.set_wakeup_fd(-1)
    options = ["keras", "--epochs", "2", *SLICE, *words, "--workdir"]
    mnist_rnn(*options, "run")
    for more in (["--learning-rate", "3e38"] * (not words), ["--hidden", "0"]):
        if more:
            with pytest.raises(SystemExit):
                mnist_rnn(*options, "bad", *more)
    stop_by(signal.SIGINT, monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        mnist_rnn(*options, "stopped")
    assert exit_.value.code == 130
    assert (handlers(), signal.set_wakeup_fd(-1)) == before


def test_empty_options_are_refused(refuse):
    mnist_rnn("keras", "--epochs", "1", *SLICE, "--workdir", "run")
    for words in (
        *(["--workdir", ""], ["--workdir="], ["--data-dir", ""], ["--runtime.archives", ""]),
        *(["--archives="], ["evaluate", ""], ["resume", " "], ["evaluate", "run", "--data-dir="]),
        *(["predict", "run", ""], ["export", "run", ""], ["sweep", "keras", "--workdir", ""]),
    ):
        assert "empty" in refuse(*words), words


@pytest.mark.parametrize("name", ["workdir", "data_dir", "archives"])
def test_empty_paths_are_refused_in_python(name):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is empty"):
        RuntimeConfig(**{name: ""})


@pytest.mark.program
def test_interrupted_imports_are_quiet():
    command = [sys.executable, "-m", "experiments.mnist_rnn", "keras", "--workdir", os.getcwd()]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGINT


@dataclass(frozen=True, kw_only=True)
class Own(MnistRNN):
    """An experiment of a notebook."""


def test_notebooks_are_told_a_call(monkeypatch, capsys):
    monkeypatch.setattr(Own, "__module__", "__main__")
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "kernel.json"])
    keras = PRESETS["keras"]
    data = replace(keras.data, train="train[:150]", validation="train[:9]", test=None)
    trainer = jaxrnn.TrainerConfig(epochs=1)
    experiment = Own(data=data, trainer=trainer, runtime=RuntimeConfig(workdir="my run"))
    jaxrnn.run(experiment)
    out = capsys.readouterr().out
    assert "to evaluate: jaxrnn.load_run('my run')\n" in out
    assert "to continue: jaxrnn.run(experiment), with RuntimeConfig(workdir='my run') " in out
    assert "epochs=2" in out
    assert "python" not in out
    stop_by(signal.SIGINT, monkeypatch, epoch=2)
    longer = replace(experiment, trainer=replace(trainer, epochs=3))
    with pytest.raises(SystemExit):
        jaxrnn.run(longer)
    assert capsys.readouterr().out.endswith(
        "to resume: jaxrnn.run(experiment), with RuntimeConfig(workdir='my run')\n"
    )
