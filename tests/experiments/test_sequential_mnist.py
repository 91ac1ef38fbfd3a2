"""The page of sequential MNIST."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxrnn
from experiments.sequential_mnist import PRESETS
from jaxrnn import History

pytestmark = pytest.mark.program

SMALL = [
    *("--train", "train[:200]", "--validation", "train[200:250]", "--test", "test[:50]"),
    *("--rows", "98", "--hidden", "4", "--epochs", "1"),
]


def sequential(*words):
    jaxrnn.main(PRESETS, default="elman", arguments=words)


def test_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sequential(*SMALL, "--workdir", "plain")
    sequential(*SMALL, "--permute", "--workdir", "permuted")
    assert "validation accuracy: 0." in capsys.readouterr().out
    plain, permuted = (History.from_csv(f"{name}/history.csv") for name in ("plain", "permuted"))
    assert plain["train_loss"] != permuted["train_loss"]
    assert np.isfinite(plain["validation_loss"]).all()
    config = json.loads(Path("permuted/config.json").read_text())
    assert (config["data"]["rows"], config["data"]["permute"]) == (98, True)
    sequential("evaluate", "permuted")


def test_default_reads_one_pixel_per_step():
    data = PRESETS["elman"].data.build()
    assert data.train.read([0])["inputs"].shape == (1, 784, 1)
    assert (len(data.train), len(data.evals["validation"])) == (50_000, 10_000)
