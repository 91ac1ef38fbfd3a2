"""Sweeps: several ordinary runs, continued, extended and summarized."""

import contextlib
import csv
import io
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.stats

import jaxrnn
from experiments.mnist_rnn import PRESETS, MnistRNN
from jaxrnn.files import read_json
from jaxrnn.runs import RuntimeConfig, runs_of
from jaxrnn.runs.processes import Stopped
from jaxrnn.training.sharding import available_cores
from tests.kill_runs import assert_same_run
from tests.shared import compilations

KERAS = PRESETS["keras"]
SMALL = replace(
    KERAS,
    data=replace(KERAS.data, train="train[:640]", validation=None, test="test[:200]"),
    model=replace(KERAS.model, hidden=8),
    trainer=replace(KERAS.trainer, epochs=3, batch_size=64, seed=3),
)


def sweep_in(workdir, experiment=SMALL, **options):
    """Run a sweep; returns the contents of sweep.json and the printed lines."""
    runtime = RuntimeConfig(workdir=workdir, devices=1)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        content = jaxrnn.sweep(replace(experiment, runtime=runtime), **options)
    return content, printed.getvalue().splitlines()


def assert_same_runs(runs, others):
    for run, other in zip(runs, others, strict=True):
        assert_same_run(jaxrnn.load_run(run), jaxrnn.load_run(other))


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweeps") / "two"
    return workdir, *sweep_in(workdir, seeds=2)


@pytest.fixture
def copied(two_seeds, tmp_path):
    return shutil.copytree(two_seeds[0], tmp_path / "copied")


def test_runs_are_ordinary_runs(two_seeds, tmp_path):
    first, second = runs_of(two_seeds[0])
    assert (first.name, second.name) == ("seed-3", "seed-4")
    trainer, runtime = replace(SMALL.trainer, seed=4), RuntimeConfig(workdir=tmp_path, devices=1)
    jaxrnn.run(replace(SMALL, trainer=trainer, runtime=runtime))
    assert_same_runs([second], runs_of(tmp_path))
    pictures = {path.name for path in tmp_path.iterdir()} - {path.name for path in second.iterdir()}
    assert pictures == {"curves.png", "confusion.png", "samples.png"}


def test_statistics_over_seeds(two_seeds):
    workdir, content, printed = two_seeds
    values = [read_json(run / "results.json")["test_accuracy"] for run in runs_of(workdir)]
    (row,) = content["configurations"]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    low, high = scipy.stats.t.interval(0.95, 1, mean, deviation / 2**0.5)
    assert (row["test_accuracy"], row["test_accuracy_deviation"]) == (mean, deviation)
    np.testing.assert_allclose(row["test_accuracy_interval"], (low, high))
    assert printed[-1] == (
        f"test accuracy: {mean:.4f}, deviation {deviation:.4f}, "
        f"95 % interval of the mean {low:.4f} to {high:.4f}"
    )
    with open(workdir / "sweep.csv") as file:
        assert [float(row["test_accuracy"]) for row in csv.DictReader(file)] == values
    assert (workdir / "sweep.png").stat().st_size > 10_000


def test_more_seeds_extend_a_sweep_and_compile_nothing(copied):
    before = (copied / "seed-3" / "results.json").stat().st_mtime_ns
    with compilations() as compiled:
        content, printed = sweep_in(copied, seeds=3)
    assert compiled == []
    assert (copied / "seed-3" / "results.json").stat().st_mtime_ns == before
    assert [line.split(":")[0] for line in printed[1:4]] == ["seed-3", "seed-4", "seed-5"]
    assert content["configurations"][0]["seeds"] == 3
    sweep_in(copied, replace(SMALL, trainer=replace(SMALL.trainer, epochs=4)))
    assert [run.name for run in runs_of(copied)] == ["seed-3"]  # others lack an epoch


def test_varied_options_and_a_run_that_diverges(tmp_path):
    vary = {"optimizer.learning_rate": [1e38, 1e-2], "model.hidden": [8]}
    content, printed = sweep_in(tmp_path, vary=vary)
    names = [f"hidden=8,learning_rate={rate}/seed-3" for rate in (0.01, 1e38)]
    assert all((tmp_path / name / "config.json").exists() for name in names)
    assert runs_of(tmp_path) == [tmp_path / names[0]]
    assert content["best"] == {"model.hidden": 8, "optimizer.learning_rate": 0.01}
    assert printed[1].startswith(f"{names[1]}: failed, as the loss is not finite from epoch 1")
    titles, row = ((line.split()[:3]) for line in printed[-3:-1])
    assert (titles, row) == (["hidden", "learning_rate", "seeds"], ["8", "0.01", "1"])
    content, _ = sweep_in(tmp_path, vary=vary | {"optimizer.learning_rate": [1e-3]})
    rates = [row["optimizer.learning_rate"] for row in content["configurations"]]
    assert rates == [0.001, 0.01]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": replace(SMALL, task=replace(SMALL.task, label_smoothing=0.1))},
         r"another configuration: task.label_smoothing \(0.0 there, 0.1 here\)"),
        ({"vary": {"model.hidden": [8]}}, "varies only the seed instead of model.hidden"),
        ({"vary": {"model.hidden": [0]}}, "--model.hidden: must be at least 1; got 0"),
        ({"vary": {"model.hidden": []}}, "--seeds must be at least 1, and --vary needs values"),
        ({"vary": {"trainer.seed": [1]}}, "--vary cannot vary trainer.seed"),
        ({"jobs": 0}, "--jobs must be between 1 and .*; got 0"),
    ],
)  # fmt: skip
def test_invalid_arguments(two_seeds, options, message):
    with pytest.raises(ValueError, match=message):
        sweep_in(two_seeds[0], **options)


def test_directories_of_sweeps_and_runs_are_refused_for_each_other(two_seeds):
    with pytest.raises(ValueError, match="seed-3: it holds a single run"):
        sweep_in(two_seeds[0] / "seed-3")
    runtime = RuntimeConfig(workdir=two_seeds[0], devices=1)
    with pytest.raises(ValueError, match="two: it holds a sweep; choose another directory"):
        jaxrnn.run(replace(SMALL, runtime=runtime))


@dataclass(frozen=True, kw_only=True)
class Interrupted(MnistRNN):
    def hooks(self):
        return [self.interrupt]

    def interrupt(self, record):
        if len(record.history) == int(os.environ.get("EPOCH", "0")):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)  # in which a thread notices


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_sweep_continues(epoch, two_seeds, tmp_path, monkeypatch):
    """Also by a signal in the last epoch of a run, which then is finished."""
    experiment = Interrupted(data=SMALL.data, model=SMALL.model, trainer=SMALL.trainer)
    monkeypatch.setenv("EPOCH", str(epoch))
    with pytest.raises(Stopped, match="130"):
        sweep_in(tmp_path, experiment, seeds=2)
    assert not (tmp_path / "seed-4").exists()
    assert (tmp_path / "seed-3" / "results.json").exists() == (epoch == 3)
    monkeypatch.delenv("EPOCH")
    sweep_in(tmp_path, experiment, seeds=2)
    assert_same_runs(runs_of(tmp_path), runs_of(two_seeds[0]))


@pytest.mark.program
def test_jobs_train_the_same_networks(two_seeds, tmp_path):
    sweep_in(tmp_path, seeds=2, jobs=min(2, available_cores()))
    assert_same_runs(runs_of(tmp_path), runs_of(two_seeds[0]))
