"""A page of one's own, outside the repository: trained, killed, resumed and evaluated."""

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jaxrnn
from jaxrnn import History
from tests.conftest import assert_identical

pytestmark = pytest.mark.program
PAGE = '''
"""Predict the running mean of noisy sequences of different lengths."""

from dataclasses import dataclass

import numpy as np

from jaxrnn import Adam, Datasets, Experiment, Regression, RNNConfig, Split, TrainerConfig, main


@dataclass(frozen=True, kw_only=True)
class RunningMeans:
    """Random sequences, and the mean of what was read at each step."""

    examples: int = 300
    """Number of training examples."""

    def build(self) -> Datasets:
        generator = np.random.default_rng(0)
        inputs = generator.normal(size=(self.examples + 50, 6, 1)).astype(np.float32)
        targets = np.cumsum(inputs, axis=1) / np.arange(1, 7)[:, None]
        lengths = generator.integers(1, 7, len(inputs))
        whole = [inputs, None, lengths.astype(np.int32), targets.astype(np.float32)]
        train, held_out = (
            Split(*[None if array is None else array[part] for array in whole])
            for part in (slice(50, None), slice(50))
        )
        return Datasets(train=train, evals={"held_out": held_out}, outputs=1)


@dataclass(frozen=True, kw_only=True)
class Means(Experiment):
    data: RunningMeans = RunningMeans()
    model: RNNConfig = RNNConfig(hidden=4, pooling="none")
    task: Regression = Regression()
    optimizer: Adam = Adam(learning_rate=1e-2)
    trainer: TrainerConfig = TrainerConfig(epochs=40, batch_size=64)


PRESETS = {"short": Means(trainer=TrainerConfig(epochs=40, batch_size=64)), "long": Means()}

if __name__ == "__main__":
    main(PRESETS, default="short", description=__doc__)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with the page, and an uninterrupted run of it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.py").write_text(PAGE)
    python(folder, "--workdir", "whole")
    return folder


def command(*words):
    return [sys.executable, "page.py", *map(str, words)]


def python(folder, *words):
    """Run the page as a user does; returns what it prints."""
    done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def curves(run):
    return [{name: row[name] for name in row if name != "seconds"} for row in run.history]


def test_columns_and_results_come_from_the_task(folder):
    history = History.from_csv(folder / "whole" / "history.csv")
    assert history.columns == (
        "epoch", "train_loss", "train_rmse", "held_out_loss", "held_out_rmse", "seconds",
    )  # fmt: skip
    assert history["held_out_rmse"][-1] < history["held_out_rmse"][0] / 2
    np.testing.assert_allclose(history["held_out_rmse"] ** 2, history["held_out_loss"], rtol=1e-12)
    results = json.loads((folder / "whole" / "results.json").read_text())
    assert results["best_epoch"] == history["held_out_rmse"].argmin() + 1
    assert results["best_held_out_rmse"] == history["held_out_rmse"].min()
    names = {path.name for path in (folder / "whole").iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "curves.png",
        "history.csv",
        "parameters.txt",
        "results.json",
    }


def test_killed_run_resumes_bit_for_bit(folder):
    running = subprocess.Popen(
        command("long", "--workdir", "killed"), cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (folder / "killed" / "checkpoints" / "2.sha256").exists():
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (folder / "killed" / "results.json").exists()
    assert "resuming after epoch" in python(folder, "resume", "killed")
    killed, whole = (jaxrnn.load_run(folder / name) for name in ("killed", "whole"))
    assert_identical(
        (killed.state.params, killed.state.opt_state), (whole.state.params, whole.state.opt_state)
    )
    assert curves(killed) == curves(whole)
    assert type(whole.experiment.task) is jaxrnn.Regression
    best = jaxrnn.load_run(folder / "whole", best=True)
    assert len(best.history) == whole.history.best("held_out_rmse", maximize=False)["epoch"]


def test_evaluate_prints_the_digits_of_the_results(folder):
    results = json.loads((folder / "whole" / "results.json").read_text())
    assert python(folder, "evaluate", "whole").splitlines() == [
        "after epoch 40:",
        f"held_out_loss {results['held_out_loss']}",
        f"held_out_rmse {results['held_out_rmse']}",
    ]


def test_three_seeds_at_once(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    presets = importlib.import_module("page").PRESETS
    words = ["--seeds", "3", "--epochs", "2", "--examples", "100"]
    jaxrnn.main(presets, default="short", arguments=words)
    out = capsys.readouterr().out
    (run,) = (folder / "runs" / "page").iterdir()
    assert run.name.startswith("short-")
    results = json.loads((run / "results.json").read_text())
    values = [member["held_out_rmse"] for member in results["members"]]
    assert len(set(values)) == 3
    assert results["held_out_rmse"] == pytest.approx(np.mean(values))
    assert f"seed 1: held out rmse {values[1]:.4f}" in out
    assert Path(run, "history-2.csv").exists()
