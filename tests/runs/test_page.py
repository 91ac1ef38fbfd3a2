"""The page of the README, outside the repository: trained, killed, resumed and evaluated."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn import History
from tests.kill_runs import assert_same_run

pytestmark = pytest.mark.program
README = Path(__file__).parents[2] / "README.md"
OPTIONS = ["--epochs", "40", "--examples", "2500", "--hidden", "8", "--learning-rate", "0.03"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with the page, and an uninterrupted run of it."""
    folder = tmp_path_factory.mktemp("page")
    (page,) = re.findall(r"```\n(from dataclasses.*?)```", README.read_text(), re.DOTALL)
    (folder / "sums.py").write_text(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(*OPTIONS, "--workdir", "whole")
    return folder


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def run(*words):
    """Run the page in this process, on one device, as in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sums.py", *words, "--devices", "1"])
        patch.setattr(jaxrnn.Experiment, "is_program", False)  # restored afterwards
        runpy.run_path("sums.py", run_name="__main__")


def test_columns_and_results_come_from_the_task():
    history = History.from_csv("whole/history.csv")
    assert history.columns == (
        "epoch", "train_loss", "train_rmse", "held_out_loss", "held_out_rmse", "seconds",
    )  # fmt: skip
    assert history["held_out_rmse"][-1] < history["held_out_rmse"][0] / 2
    np.testing.assert_allclose(history["held_out_rmse"] ** 2, history["held_out_loss"], rtol=1e-12)
    results = json.loads(Path("whole/results.json").read_text())
    assert results["best_epoch"] == history["held_out_rmse"].argmin() + 1
    assert results["best_held_out_rmse"] == history["held_out_rmse"].min()
    assert {path.name for path in Path("whole").iterdir()} == {
        "checkpoints", "config.json", "curves.png", "history.csv", "parameters.txt", "results.json",
    }  # fmt: skip


def test_killed_run_resumes_bit_for_bit(capsys):
    words = [sys.executable, "sums.py", *OPTIONS, "--workdir", "killed", "--devices", "1"]
    alike = {**os.environ, "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=alike)
    assert any(line.startswith("epoch 4/") for line in running.stdout)
    running.kill()
    running.communicate()
    assert not Path("killed/results.json").exists()
    run("resume", "killed")
    assert "resuming after epoch" in capsys.readouterr().out
    killed, whole = (jaxrnn.load_run(name) for name in ("killed", "whole"))
    assert_same_run(killed, whole)
    assert type(whole.experiment.task) is jaxrnn.Regression
    best = jaxrnn.load_run("whole", best=True)
    assert len(best.history) == whole.history.best("held_out_rmse", maximize=False)["epoch"]


def test_evaluate_prints_the_digits_of_the_results(capsys):
    results = json.loads(Path("whole/results.json").read_text())
    lines = [f"{name} {results[name]}" for name in ("held_out_loss", "held_out_rmse")]
    run("evaluate", "whole")
    assert capsys.readouterr().out.splitlines() == ["after epoch 40:", *lines]
