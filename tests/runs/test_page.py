"""A page of one's own, outside the repository: trained, killed, resumed and evaluated."""

import json
import subprocess
import sys

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
        x = generator.normal(size=(self.examples + 50, 6, 1)).astype(np.float32)
        y = (np.cumsum(x, axis=1) / np.arange(1, 7)[:, None]).astype(np.float32)
        n = generator.integers(1, 7, len(x)).astype(np.int32)
        train, held_out = (
            Split(x[part], lengths=n[part], targets=y[part]) for part in np.s_[50:, :50]
        )
        return Datasets(train=train, evals={"held_out": held_out}, outputs=1)


@dataclass(frozen=True, kw_only=True)
class Means(Experiment):
    data: RunningMeans = RunningMeans()
    model: RNNConfig = RNNConfig(hidden=4, pooling="none")
    task: Regression = Regression()
    optimizer: Adam = Adam(learning_rate=1e-2)
    trainer: TrainerConfig = TrainerConfig(epochs=40, batch_size=64)


PRESETS = {"short": Means(), "long": Means()}

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
    assert {path.name for path in (folder / "whole").iterdir()} == {
        "checkpoints", "config.json", "curves.png", "history.csv", "parameters.txt", "results.json",
    }  # fmt: skip


def test_killed_run_resumes_bit_for_bit(folder):
    words = command("long", "--workdir", "killed")
    running = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert any(line.startswith("epoch 4/") for line in running.stdout)
    running.kill()
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
    lines = [f"{name} {results[name]}" for name in ("held_out_loss", "held_out_rmse")]
    assert python(folder, "evaluate", "whole").splitlines() == ["after epoch 40:", *lines]
