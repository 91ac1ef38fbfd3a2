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

import jax
import numpy as np
import pytest

import jaxrnn
from experiments.mnist_rnn import PRESETS
from jaxrnn import History, load_run
from jaxrnn.runs.signals import interruption
from tests.conftest import SLICE, assert_identical, mnist_rnn

pytestmark = pytest.mark.program

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each run starts in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(epochs, workdir="run"):
    mnist_rnn("keras", "--epochs", epochs, *SLICE, "--workdir", workdir)
    return load_run(workdir)


def refuse(arguments, capsys, status=2):
    """Run with what cannot work; returns the one line of stderr."""
    with pytest.raises(SystemExit) as exit_:
        mnist_rnn(*arguments)
    err = capsys.readouterr().err
    assert exit_.value.code == status
    assert err.count("\n") == 1
    return err


def change_config(**groups):
    """Change some options in config.json of a run."""
    config = json.loads(Path("run/config.json").read_text())
    for group, options in groups.items():
        config[group] |= options
    Path("run/config.json").write_text(json.dumps(config))


def curves(run):
    return [{name: row[name] for name in row if name != "seconds"} for row in run.history]


def assert_same_run(a, b):
    assert_identical((a.state.params, a.state.opt_state), (b.state.params, b.state.opt_state))
    assert curves(a) == curves(b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four epochs, never interrupted."""
    return train(4, tmp_path_factory.mktemp("whole"))


def start(*options, workdir="run"):
    """A run in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "experiments.mnist_rnn", "keras", *SLICE, "--workdir"]
    return subprocess.Popen(
        [*command, str(Path(workdir).absolute()), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_signal_stops_after_the_epoch_and_the_run_can_be_resumed(capsys):
    process = start("--epochs", "100000")
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    message = "SIGINT: stopping after this epoch; press Ctrl-C (again) to stop at once"
    assert err == f"\n{message}\n"
    *_, stopped, resume = out.splitlines()
    assert stopped.startswith("stopped; earlier epochs are saved in ")
    words = shlex.split(resume)
    assert words[:6] == ["to", "resume:", "python", "-m", "experiments.mnist_rnn", "resume"]
    assert Path(words[6]) == Path("run").absolute()

    epochs = len(load_run("run").history)
    assert epochs >= 2
    history = History.from_csv("run/history.csv")
    assert len(history) == epochs
    assert not Path("run/results.json").exists()

    # One epoch more than it had, to come to an end.
    change_config(trainer={"epochs": epochs})
    mnist_rnn(*words[5:], "--epochs", epochs + 1)
    assert f"resuming after epoch {epochs}\n" in capsys.readouterr().out
    resumed = load_run("run").history
    assert len(resumed) == epochs + 1
    assert resumed.rows[:epochs] == history.rows


def test_second_sigint_stops_at_once():
    process = start("--epochs", "100000", "--hidden", "400", "--train", "train")
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


def test_finished_run_is_continued_with_more_epochs_only(whole, folder, capsys):
    train(2)
    results = Path("run/results.json").read_text()
    err = refuse(["keras", "--epochs", "2", *SLICE, "--workdir", "run"], capsys)
    assert "holds a finished run of 2 epochs; raise --epochs to continue it, or choose" in err
    assert Path("run/results.json").read_text() == results
    assert_same_run(train(4), whole)
    assert "resuming after epoch 2\n" in capsys.readouterr().out
    assert json.loads(Path("run/results.json").read_text())["epochs"] == 4
    assert json.loads(Path("run/config.json").read_text())["trainer"]["epochs"] == 4
    assert len(History.from_csv("run/history.csv")) == 4


def test_run_killed_after_its_last_epoch_gets_its_results(whole, capsys):
    train(4)
    Path("run/results.json").unlink()
    Path("run/.results.json-123").write_text("{")
    Path("run/history.csv").unlink()
    capsys.readouterr()
    assert_same_run(train(4), whole)
    assert "resuming after epoch 4\n" in capsys.readouterr().out
    assert Path("run/results.json").exists()
    assert len(History.from_csv("run/history.csv")) == 4
    assert not list(Path("run").glob(".*"))


def test_other_configuration_is_refused_with_the_differences(capsys):
    train(2)
    arguments = ["keras", "--epochs", "3", *SLICE, "--seed", "5", "--cell", "gru"]
    err = refuse([*arguments, "--workdir", "run"], capsys)
    assert (
        "of another configuration: model.cell ('simple' there, 'gru' here), "
        "trainer.seed (0 there, 5 here); choose another" in err
    )
    assert "epochs" not in err
    err = refuse(["keras", "--epochs", "1", *SLICE, "--workdir", "run"], capsys)
    assert "trainer.epochs (2 there, 1 here)" in err


def test_damaged_newest_checkpoint_is_reported_and_skipped(whole, capsys, caplog):
    train(3)
    path = next(Path("run/checkpoints/3").rglob("manifest.ocdbt"))
    path.write_bytes(path.read_bytes()[::-1])
    assert_same_run(train(4), whole)
    assert "3 is damaged" in caplog.text
    assert "falling back to epoch 2" in caplog.text
    assert "resuming after epoch 2\n" in capsys.readouterr().out


def test_nothing_is_changed_if_all_checkpoints_are_damaged(capsys):
    train(2)
    for path in Path("run/checkpoints").glob("*.sha256"):
        path.write_text("")
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    err = refuse(["keras", "--epochs", "3", *SLICE, "--workdir", "run"], capsys)
    assert "checkpoints/2 is damaged" in err
    assert "checkpoints/1 is damaged" in err
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


def test_run_without_checkpoints_is_not_overwritten(capsys):
    train(3)
    shutil.rmtree("run/checkpoints")
    for name in ("results.json", "history.csv"):
        err = refuse(["keras", "--epochs", "4", *SLICE, "--workdir", "run"], capsys)
        assert "holds a run without its checkpoints; choose another" in err
        Path("run", name).unlink()
    assert len(train(4).history) == 4


def test_run_killed_in_its_first_save_starts_again(whole):
    train(1)
    Path("run/results.json").unlink()
    Path("run/checkpoints/1.sha256").unlink()
    change_config(trainer={"epochs": 4})
    assert_same_run(train(4), whole)


def test_checkpoints_of_other_configuration_are_refused(capsys):
    """Whatever config.json has been made to say."""
    train(1)
    change_config(trainer={"seed": 5})
    arguments = ["keras", "--epochs", "2", *SLICE, "--seed", "5", "--workdir", "run"]
    assert "trainer.seed (0 there, 5 here)" in refuse(arguments, capsys)


def test_several_networks_resume_on_other_devices(capsys):
    many = ["keras", *SLICE, "--seeds", "3", "--workdir"]
    mnist_rnn(*many, "run", "--epochs", "2", "--devices", "2")
    mnist_rnn("resume", "run", "--epochs", "3", "--devices", "1")
    assert "resuming after epoch 2\n" in capsys.readouterr().out
    mnist_rnn(*many, "whole", "--epochs", "3", "--devices", "2")
    for seed in (0, 1, 2):
        ours, theirs = (History.from_csv(f"{name}/history-{seed}.csv") for name in ("run", "whole"))
        np.testing.assert_allclose(ours["train_loss"], theirs["train_loss"], rtol=1e-5)
    assert load_run("run").state.step.shape == (3,)


def test_continuing_removes_the_old_results(folder, monkeypatch):
    train(1)
    monkeypatch.setattr("jaxrnn.runs.run.fit", lambda *args, **options: 1 / 0)
    with pytest.raises(SystemExit):
        train(2)
    assert not Path("run/results.json").exists()


def test_evaluate_checks_the_configuration(capsys):
    train(1)
    before = Path("run/config.json").read_text()
    for group, name, value in (
        ("trainer", "seeds", 3),
        ("model", "hidden", 999),
        ("data", "test", 5),
    ):
        change_config(**{group: {name: value}})
        assert f"{group}.{name}" in refuse(["evaluate", "run"], capsys)
        Path("run/config.json").write_text(before)


def test_pictures_do_not_follow_links():
    Path("mine").write_text("mine")
    Path("run").mkdir()
    for name in ("samples.png", "curves.png", "history.csv"):
        Path("run", name).symlink_to("../mine")
    Path("run/history.csv").unlink()
    train(1)
    assert Path("mine").read_text() == "mine"


def test_checkpoints_without_a_configuration(capsys):
    train(1)
    Path("run/config.json").unlink()
    err = refuse(["keras", "--epochs", "2", *SLICE, "--workdir", "run"], capsys)
    assert "has checkpoints but no config.json" in err


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "[" * 10_000, "{}", '{"epochs": "1"}'])
@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_tampered_json_is_refused(content, name, capsys):
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(PRESETS["fast"].to_json()))
    Path("run", name).write_text(content)
    err = refuse(["--workdir", "run"], capsys)
    assert re.search(rf"{name} is damaged|another experiment|holds a finished run", err)
    assert {path.name for path in Path("run").iterdir()} == {"config.json", name}


def test_two_processes_do_not_share_a_directory(capsys):
    fcntl = pytest.importorskip("fcntl")
    train(1)
    descriptor = os.open("run", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = Path("run/config.json").read_text()
    err = refuse(["keras", "--epochs", "2", *SLICE, "--workdir", "run"], capsys)
    assert "--workdir run cannot be used: another process is using it" in err
    os.close(descriptor)
    assert Path("run/config.json").read_text() == before
    assert len(load_run("run").history) == 1


def test_non_finite_loss_stops_the_run(capsys):
    arguments = ["keras", "--epochs", "3", *SLICE, "--learning-rate", "3e38", "--workdir", "run"]
    err = refuse(arguments, capsys, status=1)
    assert "the loss is not finite from epoch 1, step 2 on" in err
    assert "on; try a lower --learning-rate or --clip-norm, in another directory" in err
    assert not Path("run/history.csv").exists()


def test_full_disk(whole, capsys, monkeypatch):
    write = jaxrnn.History.to_csv

    def full_after_two(history, path):
        if len(history) > 2:
            raise OSError(28, "No space left on device", str(path))
        write(history, path)

    with monkeypatch.context() as patch:
        patch.setattr(jaxrnn.History, "to_csv", full_after_two)
        err = refuse(["keras", "--epochs", "4", *SLICE, "--workdir", "run"], capsys, status=1)
    assert "run/history.csv: No space left on device; earlier epochs are saved in " in err
    assert err.endswith("to resume: python -m experiments.mnist_rnn resume run\n")
    assert len(load_run("run").history) == 2
    assert_same_run(train(4), whole)
    assert "resuming after epoch 2\n" in capsys.readouterr().out


def test_stopped_run_resumes_bit_for_bit(whole, capsys, monkeypatch):
    write = jaxrnn.History.to_csv

    def stop_after_two(history, path):
        write(history, path)
        if len(history) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            while "SIGTERM: stopping" not in capsys.readouterr().err:
                time.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(jaxrnn.History, "to_csv", stop_after_two)
        with pytest.raises(SystemExit) as exit_:
            train(4)
    assert exit_.value.code == 143
    assert "stopped; earlier epochs are saved in run\n" in capsys.readouterr().out
    assert len(load_run("run").history) < 4
    assert_same_run(train(4), whole)


def test_deleted_directory(folder, capsys, monkeypatch):
    write = jaxrnn.History.to_csv

    def vanish(history, path):
        if len(history) == 2:
            while not (folder / "run" / "checkpoints" / "1.sha256").exists():
                time.sleep(0.01)
            (folder / "run").rename(folder / "gone")
        write(history, path)

    monkeypatch.setattr(jaxrnn.History, "to_csv", vanish)
    err = refuse(["keras", "--epochs", "4", *SLICE, "--workdir", "run"], capsys, status=1)
    assert "No such file or directory" in err


def test_evaluate_prints_the_metrics_of_results_json(capsys):
    train(2)
    capsys.readouterr()
    mnist_rnn("evaluate", "run")
    results = json.loads(Path("run/results.json").read_text())
    names = [
        f"{split}_{metric}" for split in ("validation", "test") for metric in ("loss", "accuracy")
    ]
    assert capsys.readouterr().out.splitlines() == [
        "after epoch 2:", *(f"{name} {results[name]}" for name in names),
    ]  # fmt: skip
    err = refuse(["resume", "run", "--workdir", "elsewhere"], capsys)
    assert "leave out --workdir: resume uses the directory of the run" in err
    assert not Path("elsewhere").exists()


def test_load_run_returns_everything(capsys):
    run = train(2)
    assert run.experiment.model == jaxrnn.RNNConfig(hidden=12)
    assert run.experiment.trainer == jaxrnn.TrainerConfig(epochs=2)
    assert run.model == jaxrnn.RNNModel(hidden=12)
    assert run.history == History.from_csv("run/history.csv")
    assert run.key == jax.random.split(jax.random.key(0))[1]
    assert int(run.state.step) == 10


def test_signals_are_taken_only_while_training():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruption() as interrupted:
        assert interrupted.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        while interrupted.received is None:
            time.sleep(0.01)
        assert interrupted.exit_status == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
