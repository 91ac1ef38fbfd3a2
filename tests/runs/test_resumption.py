"""Runs that are stopped, killed, or meet a fault, and resume bit for bit."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.mnist_rnn import PRESETS
from jaxrnn import History, load_run
from tests.kill_runs import assert_same_run
from tests.shared import SLICE, mnist_rnn

pytestmark = [pytest.mark.program, pytest.mark.usefixtures("folder")]

ROOT = Path(__file__).parents[2]
OPTIONS = [*SLICE, "--dropout", "0.1"]
RUN = ["keras", *OPTIONS, "--workdir", "run"]


def train(epochs, workdir="run"):
    mnist_rnn("keras", "--epochs", epochs, *OPTIONS, "--workdir", workdir)
    return load_run(workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four epochs, never interrupted."""
    return train(4, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two")
    train(2, workdir)
    return workdir


@pytest.fixture
def finished(two_epochs, folder):
    """A finished run of two epochs in the directory ``run``."""
    return shutil.copytree(two_epochs, folder / "run")


def change_config(**groups):
    """Change some options in config.json of a run."""
    config = json.loads(Path("run/config.json").read_text())
    for group, options in groups.items():
        config[group] |= options
    Path("run/config.json").write_text(json.dumps(config))


def start(*options):
    """A run in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "experiments.mnist_rnn", "keras", *OPTIONS, "--workdir"]
    command += [str(Path("run").absolute()), "--epochs", "100000", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_second_sigint_stops_at_once():
    process = start("--hidden", "400", "--train", "train")
    for line in process.stdout:
        if "files in" in line:
            break
    while not Path("run/samples.png").exists():  # compiling by now
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not Path("run/history.csv").exists()  # it did not wait for the epoch


def test_finished_run_is_continued_with_more_epochs(whole, finished, capsys):
    assert_same_run(train(4), whole)
    assert "resuming after epoch 2\n" in capsys.readouterr().out
    assert json.loads(Path("run/results.json").read_text())["epochs"] == 4
    assert json.loads(Path("run/config.json").read_text())["trainer"]["epochs"] == 4
    assert len(History.from_csv("run/history.csv")) == 4


def test_run_killed_after_its_last_epoch_gets_its_results(finished, capsys):
    """And its history, which the checkpoint holds, whatever has become of the file."""
    Path("run/results.json").unlink()
    Path("run/.results.json-123.jaxrnn").write_text("{")
    (notes := Path("run/.notes.md-2026-11-29")).touch()
    Path("run/history.csv").write_text("damaged")
    shutil.copytree("run/checkpoints/2", "run/checkpoints/.partial")
    stored = load_run("run")
    assert_same_run(train(2), stored)
    assert "resuming after epoch 2\n" in capsys.readouterr().out
    assert Path("run/results.json").exists()
    assert History.from_csv("run/history.csv") == stored.history
    assert list(Path("run").rglob(".*")) == [notes]


def test_run_killed_in_its_first_save_starts_again(whole):
    train(1)
    Path("run/results.json").unlink()
    Path("run/checkpoints/1").rename("run/checkpoints/.partial")
    change_config(trainer={"epochs": 4})
    assert_same_run(train(4), whole)


def test_damaged_newest_checkpoint_is_reported_and_skipped(whole, finished, capsys, caplog):
    path = next(Path("run/checkpoints/2").rglob("manifest.ocdbt"))
    path.write_bytes(path.read_bytes()[::-1])
    assert_same_run(train(4), whole)
    assert "2 is damaged" in caplog.text
    assert "falling back to epoch 1" in caplog.text
    assert "resuming after epoch 1\n" in capsys.readouterr().out


def damage_checkpoints():
    for path in Path("run/checkpoints").glob("*/run.json"):
        path.write_text("{}")


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (None, "--epochs 2", "finished run of 2 epochs; raise --epochs to continue it, or choose"),
        (None, "--epochs 1", r"trainer.epochs \(2 there, 1 here\)"),
        (
            None,
            "--epochs 3 --seed 5 --cell gru",
            r"another configuration: model.cell \('simple' there, 'gru' here\), "
            r"trainer.seed \(0 there, 5 here\); choose another",
        ),
        (
            lambda: change_config(trainer={"seed": 5}),
            "--epochs 3 --seed 5",
            r"2 cannot be restored: .*trainer.seed \(0 there, 5 here\)",
        ),
        (damage_checkpoints, "--epochs 3", "checkpoints/2 is damaged.*checkpoints/1 is damaged"),
    ],
)
def test_runs_that_cannot_continue_are_left_unchanged(finished, change, words, message, refuse):
    if change:
        change()
    assert re.search(message, refuse(*RUN, *words.split()))


def test_two_processes_do_not_share_a_directory(finished, refuse):
    fcntl = pytest.importorskip("fcntl")
    descriptor = os.open("run", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    err = refuse(*RUN, "--epochs", "3")
    os.close(descriptor)
    assert "--workdir run cannot be used: another process is using it" in err


def test_run_without_checkpoints_is_not_overwritten(refuse):
    train(3)
    shutil.rmtree("run/checkpoints")
    for name in ("results.json", "history.csv"):
        err = refuse(*RUN, "--epochs", "4")
        assert "holds a run without its checkpoints; choose another" in err
        Path("run", name).unlink()
    assert len(train(4).history) == 4


def test_continuing_removes_the_old_results(finished, monkeypatch):
    monkeypatch.setattr(sys.modules["jaxrnn.runs.run"], "fit", lambda *args, **options: 1 / 0)
    with pytest.raises(SystemExit):
        train(3)
    assert not Path("run/results.json").exists()


def test_evaluate_checks_the_configuration(finished, refuse):
    before = Path("run/config.json").read_text()
    for group, name, value in (("model", "hidden", 999), ("data", "test", 5)):
        change_config(**{group: {name: value}})
        assert f"{group}.{name}" in refuse("evaluate", "run")
        Path("run/config.json").write_text(before)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 10_000, "{}", '{"epochs": "1"}'])
@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_tampered_json_is_refused(content, name, refuse):
    """Unless there are checkpoints, to make it again from."""
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(PRESETS["fast"].to_json()))
    Path("run", name).write_text(content)
    err = refuse("--workdir", "run")
    assert re.search(r"config.json is damaged|of another|a run without its checkpoints", err)


def test_non_finite_loss_stops_the_run(refuse):
    err = refuse(*RUN, "--epochs", "3", "--learning-rate", "3e38", status=1)
    assert "the loss is not finite from epoch 1, step 2 on" in err
    assert "on; try a lower --learning-rate or --clip-norm, in another directory" in err
    assert not Path("run/history.csv").exists()


def in_epoch(number, monkeypatch, function):
    """Call a function before the history of an epoch is written."""
    write = History.to_csv

    def call_and_write(history, path):
        if len(history) == number:
            function(path)
        write(history, path)

    monkeypatch.setattr(History, "to_csv", call_and_write)


def test_full_disk(whole, refuse, capsys, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        in_epoch(3, patch, full)
        err = refuse(*RUN, "--epochs", "4", status=1)
    assert "run/history.csv: No space left on device; earlier epochs are saved in " in err
    assert err.endswith("to resume: python -m experiments.mnist_rnn resume run\n")
    assert len(load_run("run").history) == 2
    assert_same_run(train(4), whole)
    assert "resuming after epoch 2\n" in capsys.readouterr().out


def test_signal_stops_the_run_after_the_epoch(whole, capsys, monkeypatch):
    advice = "\nSIGTERM: stopping after this epoch; press Ctrl-C (again) to stop at once\n"

    def stop(path):
        os.kill(os.getpid(), signal.SIGTERM)
        while advice not in capsys.readouterr().err:
            time.sleep(0.01)

    with monkeypatch.context() as patch:
        in_epoch(2, patch, stop)
        with pytest.raises(SystemExit) as exit_:
            train(4)
    assert exit_.value.code == 143
    *_, stopped, resume = capsys.readouterr().out.splitlines()
    assert stopped == "stopped; earlier epochs are saved in run"
    words = shlex.split(resume)
    assert words == ["to", "resume:", "python", "-m", "experiments.mnist_rnn", "resume", "run"]
    history = History.from_csv("run/history.csv")
    assert len(history) == 2
    assert load_run("run").history == history
    assert not Path("run/results.json").exists()
    mnist_rnn(*words[5:])
    assert "resuming after epoch 2\n" in capsys.readouterr().out
    assert load_run("run").history.rows[:2] == history.rows
    assert_same_run(load_run("run"), whole)


def test_deleted_directory(folder, refuse, monkeypatch):
    def vanish(path):
        while not (folder / "run" / "checkpoints" / "1").exists():
            time.sleep(0.01)
        (folder / "run").rename(folder / "gone")

    in_epoch(2, monkeypatch, vanish)
    err = refuse(*RUN, "--epochs", "4", status=1)
    assert "No such file or directory" in err
    assert not Path("run").exists()
