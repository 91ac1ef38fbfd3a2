"""The MNIST page, end to end on a small slice of the real data."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxrnn
from experiments.mnist_rnn import PRESETS
from jaxrnn import Adam, History, ImageSequences, Muon, RNNConfig, TrainerConfig, WarpConfig
from jaxrnn.data import ImageLayout
from jaxrnn.runs.prepare import prepare
from jaxrnn.runs.run import open_workdir
from tests.shared import SLICE, as_users_do, mnist_rnn

pytestmark = [pytest.mark.program, pytest.mark.usefixtures("folder")]


def test_keras_preset_end_to_end(folder):
    """As a user types it, in a process of its own."""
    words = ["keras", "--epochs", "2", *SLICE, "--workdir", str(folder / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.mnist_rnn", *words],
        cwd=Path(__file__).parents[2],
        env=as_users_do(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    run = folder / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.json", "confusion.png", "curves.png", "history.csv",
        "parameters.txt", "results.json", "samples.png",
    ]  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert (config["trainer"]["epochs"], config["model"]["hidden"]) == (2, 12)

    history = History.from_csv(run / "history.csv")
    splits = ("train", "validation", "test")
    measured = [f"{split}_{metric}" for split in splits for metric in ("loss", "accuracy")]
    assert history.columns == ("epoch", *measured, "seconds")
    assert len(history) == 2

    results = json.loads((run / "results.json").read_text())
    parameters = 12 * (28 + 1 + 12) + 10 * (12 + 1)
    assert (results["seed"], results["parameters"], parameters) == (0, 622, 622)
    assert "622" in (run / "parameters.txt").read_text()
    assert results["best_test_accuracy"] == history["test_accuracy"].max()
    assert results["best_epoch"] == history["validation_accuracy"].argmax() + 1
    assert all(results[name] == history[name][-1] for name in measured)
    assert set(results["seconds"]) == {"preparation", "compilation", "training", "evaluation"}
    assert all(seconds > 0 for seconds in results["seconds"].values())
    assert results["versions"]["jax"] == jax.__version__
    assert results["devices"][0].startswith("cpu")

    lines = done.stdout.splitlines()
    start = r"mnist_rnn/keras: 622 parameters, 640 training examples, on .* × cpu.*; files in .*run"
    assert re.fullmatch(start, lines[0])
    assert lines[1].startswith("epoch 1/2: loss ")
    assert f"test accuracy: {results['test_accuracy']:.4f}" in lines
    command = "python -m experiments.mnist_rnn"
    assert lines[-3:] == [
        f"curves: {run}/curves.png",
        f"to evaluate: {command} evaluate {run}",
        f"to continue: {command} resume {run} --epochs 4",
    ]
    sizes = {"curves": (2000, 600), "samples": (1500, 1500), "confusion": (1200, 790)}
    for name, size in sizes.items():
        with Image.open(run / f"{name}.png") as picture:
            assert picture.size == size


def test_tf1_preset_end_to_end(folder, capsys):
    mnist_rnn("tf1", "--epochs", "10", *SLICE, "--validation", "None")
    (run,) = (folder / "runs" / "mnist_rnn").iterdir()
    assert re.fullmatch(r"tf1-\d{8}-\d{6}", run.name)
    history = History.from_csv(run / "history.csv")
    correct = history["train_accuracy"] * 150  # of one batch of 150
    np.testing.assert_allclose(correct, correct.round(), atol=1e-9)

    results = json.loads((run / "results.json").read_text())
    assert results["best_epoch"] == history["test_accuracy"].argmax() + 1
    train, test = history["train_accuracy"][-1], history["test_accuracy"][-1]
    out = capsys.readouterr().out
    assert f"\n10 Train Accuracy: {train:0.4f}, Test Accuracy: {test:0.4f}\n" in out
    assert out.count("Train Accuracy") == 1


def test_two_runs_in_one_second_get_two_directories(folder, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda format: "20260101-000000")
    for _ in range(2):
        with open_workdir(None, "mnist_rnn/fast", check=lambda path: None) as path:
            (path / "config.json").touch()
    names = {path.name for path in (folder / "runs" / "mnist_rnn").iterdir()}
    assert names == {"fast-20260101-000000", "fast-20260101-000000-2"}


def test_presets_are_their_notebooks_protocols():
    tf1, keras = PRESETS["tf1"], PRESETS["keras"]
    assert tf1.data == ImageSequences(train="train[5000:]", test="test")
    splits = {"train": "train[:48000]", "validation": "train[48000:]", "test": "test"}
    assert keras.data == ImageSequences(**splits)
    assert PRESETS["fast"].data.test == "test"
    elman = RNNConfig(hidden=150, cell="simple", layers=1, bidirectional=False)
    assert (tf1.model, keras.model) == (replace(elman, initializers="tf1"), elman)
    rectified = replace(elman, activation="relu", initializers="identity")
    assert [PRESETS[name].model for name in ("fast", "sprint", "record")] == [rectified] * 3
    assert (tf1.optimizer, keras.optimizer) == (
        Adam(learning_rate=1e-3, epsilon=1e-8), Adam(learning_rate=1e-3, epsilon=1e-7),
    )  # fmt: skip
    of_batches = {"drop_remainder": True, "train_curve": "last_batch"}
    assert tf1.trainer == TrainerConfig(epochs=100, batch_size=150, **of_batches)
    assert keras.trainer == TrainerConfig(epochs=5, batch_size=150)
    assert (tf1.augment.build(), keras.augment.build()) == (None, None)


def test_every_option_reaches_fit(monkeypatch):
    seen = {}

    def record(state, train, trainer, **options):
        seen.update(options, state=state, train=train, trainer=trainer)
        raise ValueError("seen")

    monkeypatch.setattr(sys.modules["jaxrnn.runs.run"], "fit", record)
    words = [
        *("record", "--epochs", "3", "--batch-size", "20", "--devices", "2", "--drop-remainder"),
        *("--shift", "2", "--rotation", "0", "--zoom", "0", "--shear", "0", "--elastic", "0.5"),
        *("--label-smoothing", "0.1", "--seed", "9", "--hidden", "7"),
        *("--rows", "14", "--permute", "--permutation", "5"),
    ]
    splits = ["--train", "train[:650]", "--validation", "train[640:900]", "--test", "test[:200]"]
    with pytest.raises(SystemExit):
        mnist_rnn(*words, *splits)
    warp = WarpConfig(shift=2.0, elastic=0.5)
    assert seen["augment"] is warp.build(ImageLayout((28, 28), permutation=5))
    assert seen["state"].task == jaxrnn.Classification(label_smoothing=0.1)
    optimizer = Muon(
        learning_rate=6e-3, muon_learning_rate=3e-3, epsilon=1e-8, schedule="linear", warmup=0.1,
        clip_norm=1.0, average=0.999,
    )  # fmt: skip
    assert seen["state"].tx is optimizer.build(3 * 32)
    assert seen["state"].params["head"]["kernel"].shape == (7, 10)
    assert seen["trainer"] == TrainerConfig(epochs=3, batch_size=20, drop_remainder=True, seed=9)
    assert seen["devices"] == 2
    assert seen["key"] == jax.random.split(jax.random.key(9))[1]
    sizes = {name: len(split) for name, split in seen["evals"].items()}
    assert (len(seen["train"]), sizes) == (650, {"validation": 260, "test": 200})


def test_color_pictures_are_warped(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 5, 3), np.uint8)
    for kind, pictures in zip(("cat", "dog"), pixels, strict=True):
        (folder / "pets" / kind).mkdir(parents=True)
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / "pets" / kind / f"{index}.png")
    pets = ["--name", f"{folder}/pets", "--train", "train", "--validation", "None"]
    pets += ["--test", "train"]
    mnist_rnn("keras", *pets, "--shift", "1", "--epochs", "1", "--batch-size", "4", "--hidden", "3")

    warp = WarpConfig(shift=1.0)
    data = ImageSequences(name=f"{folder}/pets", validation=None, test="train")
    experiment = replace(PRESETS["keras"], data=data, augment=warp)
    experiment = replace(experiment, trainer=TrainerConfig(batch_size=4))
    prepared = prepare(experiment)
    assert prepared.augment is warp.build(ImageLayout((6, 5, 3)))
    split = prepared.data.train  # which doesn't know its layout, except for the channels
    prepared = prepare(experiment, jaxrnn.Datasets(split, {"test": split}, outputs=2))
    assert prepared.augment is warp.build(ImageLayout((6, -1, 3)))
