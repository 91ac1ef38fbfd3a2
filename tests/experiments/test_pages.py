"""Every page, small: it crashes after its first epoch, resumes, and ends as if it never had."""

import importlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import History, Regression, RNNConfig, TrainerConfig, load_run
from jaxrnn.data.batches import prepare
from jaxrnn.runs.verbs.evaluate import evaluate_run
from tests.data.test_datasets import sunspots, vowels
from tests.kill_runs import assert_same_run

pytestmark = pytest.mark.program

PAGES = {
    ("sequential_mnist", "lru"): {
        **{"train": "train[:60]", "validation": "train[60:80]", "test": "test[:20]", "rows": 28},
        "permute": True,
    },
    ("adding", "mingru"): {"length": 12, "examples": 60, "held_out": 20},
    ("copying", "long"): {"delay": 5, "examples": 60, "held_out": 20},
    ("language", "lstm"): {"rows": 20},
    ("japanese_vowels", "gru"): {},
    ("sunspots", "gru"): {"window": 5},
}


def small(page, preset, folder):
    """Make the experiment of a page take a second."""
    data = dict(PAGES[page, preset])
    if page == "language":
        text = "".join(np.random.default_rng(0).choice(list("abc \n"), 2000))
        (folder / "text").write_text(text)
        data["text"] = folder / "text"
    if page == "japanese_vowels":
        data["folder"] = vowels(folder)
    if page == "sunspots":
        data["file"] = sunspots(folder / "sunspots.csv")
    whole = importlib.import_module(f"experiments.{page}").PRESETS[preset]
    model = {"hidden": 4, "embedding": 3 if whole.model.embedding else None}
    trainer = {"epochs": 2, "batch_size": 10, "truncate": 30 if whole.trainer.truncate else None}
    return replace(
        whole,
        data=replace(whole.data, **data),
        model=replace(whole.model, **model),
        trainer=replace(whole.trainer, **trainer),
    )


def crash(record):
    raise RuntimeError("lost power")


def run(experiment, workdir):
    runtime = replace(experiment.runtime, workdir=Path(workdir))
    return jaxrnn.run(replace(experiment, runtime=runtime))


@pytest.mark.parametrize(("page", "preset"), PAGES)
def test_resume_after_a_crash(page, preset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiment = small(page, preset, tmp_path)
    results = run(experiment, "whole")
    with monkeypatch.context() as broken:
        broken.setattr(type(experiment), "hooks", lambda self: [crash])
        with pytest.raises(RuntimeError, match="lost power"):
            run(experiment, "crashed")
    assert len(load_run("crashed", type(experiment)).history) == 1
    assert "resuming after epoch 1" not in capsys.readouterr().out
    again = run(experiment, "crashed")
    assert "resuming after epoch 1" in capsys.readouterr().out
    assert_same_run(*(load_run(name, type(experiment)) for name in ("whole", "crashed")))
    best = experiment.task.best
    assert again[f"validation_{best}"] == results[f"validation_{best}"]
    assert Path("whole/curves.png").exists()
    if page == "language":
        runtime = replace(experiment.runtime, sample=5)
        drawn = evaluate_run(replace(experiment, runtime=runtime), Path("whole"))
        assert len(drawn["sample"]) == 5
    check_predictions(experiment, capsys)


def check_predictions(experiment, capsys):
    """Check that the run called whole predicts the same in Python, for files, and exported."""
    verbs = partial(jaxrnn.main, {"small": experiment}, default="small")
    stored = load_run("whole", type(experiment), best=experiment.trainer.patience is not None)
    split = experiment.data.build().evals["validation"]
    outputs = stored.predict(split.inputs, split.lengths)

    verbs(arguments=["export", "whole", "out"])
    exported = jax.export.deserialize(bytearray(Path("out/model.stablehlo").read_bytes()))
    lengths = split.lengths
    if lengths is None:
        lengths = np.full(len(split), split.inputs.shape[1], np.int32)
    inputs = (
        split.inputs.astype(np.int32)
        if len(stored.input_shape) == 1  # tokens
        else np.float32(prepare({"inputs": split.inputs})["inputs"])
    )
    valid = np.arange(outputs.shape[1]) < lengths[:, None] if outputs.ndim == 3 else ...
    np.testing.assert_allclose(exported.call(inputs, lengths)[valid], outputs[valid], atol=1e-5)

    if stored.pixels or len(stored.input_shape) == 1:
        return  # files of images and of text are tests of the verb
    for inputs, output, length in zip(split.inputs[:2], outputs, lengths, strict=False):
        np.save("example.npy", inputs[:length])
        capsys.readouterr()
        verbs(arguments=["predict", "whole", "example.npy", "--json"])
        answer = json.loads(capsys.readouterr().out)
        output = output[:length] if output.ndim == 2 else output
        if "outputs" in answer:
            np.testing.assert_allclose(answer["outputs"], output, atol=1e-5)
            continue
        name = "probability" if output.ndim == 1 else "probabilities"
        best = jax.nn.softmax(output).max(-1)
        np.testing.assert_allclose(answer[name], best, atol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Random sequences and random targets."""

    def build(self):
        draw = np.random.default_rng(0).normal
        train, validation = (
            jaxrnn.Split(np.float32(draw(size=(40, 5, 2))), targets=np.float32(draw(size=(40, 1))))
            for _ in range(2)
        )
        return jaxrnn.Datasets(train, {"validation": validation}, outputs=1)


@dataclass(frozen=True, kw_only=True)
class NoisyRNN(jaxrnn.Experiment):
    """A network that learns noise by heart, so that its validation error soon rises."""

    data: Noise = Noise()
    model: RNNConfig = RNNConfig(hidden=32)
    task: Regression = Regression()
    optimizer: jaxrnn.Adam = jaxrnn.Adam(learning_rate=0.03)


def test_patience_keeps_the_best_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiment = NoisyRNN(trainer=TrainerConfig(epochs=60, batch_size=20, patience=3))
    results = run(experiment, "run")
    epochs, best = results["epochs"], results["epoch"]
    assert (best, results["stopped_early"]) == (epochs - 3, True)
    assert epochs < 60
    history = History.from_csv("run/history.csv")
    assert best == 1 + np.argmin(history["validation_rmse"])
    assert results["validation_rmse"] == history["validation_rmse"][best - 1]
    assert f"epoch {best} of {epochs} was the best and is kept" in capsys.readouterr().out
    runtime = replace(experiment.runtime, workdir=Path("run"))
    stored = evaluate_run(replace(experiment, runtime=runtime), Path("run"))
    assert stored["epoch"] == best
    assert stored["validation_rmse"] == pytest.approx(results["validation_rmse"], 1e-6)
    with pytest.raises(ValueError, match=f"stopped early after {epochs} epochs"):
        run(experiment, "run")
    Path("run/results.json").unlink()  # as if killed before it was written
    assert {**run(experiment, "run"), "seconds": 0} == {**results, "seconds": 0}
    assert len(History.from_csv("run/history.csv")) == epochs


def test_patience_without_a_stop_keeps_the_best_epoch(tmp_path):
    trainer = TrainerConfig(epochs=15, batch_size=20, patience=14)
    results = run(NoisyRNN(trainer=trainer), tmp_path / "run")
    assert (results["epochs"], results["stopped_early"]) == (15, False)
    assert results["epoch"] == results["best_epoch"] < 15


def test_sequential_mnist_reads_one_pixel_per_step():
    data = importlib.import_module("experiments.sequential_mnist").PRESETS["elman"].data.build()
    assert data.train.read([0])["inputs"].shape == (1, 784, 1)
    assert (len(data.train), len(data.evals["validation"])) == (50_000, 10_000)


class Bounded(NoisyRNN):
    def hooks(self):
        return [lambda record: len(record.history) >= 2]


def test_a_hook_that_stops_a_run_finishes_it(tmp_path, capsys):
    results = run(Bounded(trainer=TrainerConfig(epochs=5, batch_size=20)), tmp_path / "run")
    assert (results["epochs"], results["stopped_early"]) == (2, True)
    assert "validation rmse: " in capsys.readouterr().out


@dataclass(frozen=True, kw_only=True)
class Plain:
    """An optimizer of a page, which doesn't say whether its schedule depends on the steps."""

    def build(self, steps):
        return optax.sgd(optax.cosine_decay_schedule(0.1, steps))


@dataclass(frozen=True, kw_only=True)
class Cosine(NoisyRNN):
    optimizer: Plain = Plain()


def test_unknown_schedules_are_not_continued(tmp_path):
    trainer = TrainerConfig(epochs=1, batch_size=20)
    run(Cosine(trainer=trainer), tmp_path / "run")
    with pytest.raises(ValueError, match=r"another configuration: trainer.epochs \(1 there, 2 her"):
        run(Cosine(trainer=replace(trainer, epochs=2)), tmp_path / "run")


def test_seconds_of_training_are_those_of_all_epochs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = NoisyRNN(trainer=TrainerConfig(epochs=1, batch_size=20))
    run(experiment, "run")
    results = run(replace(experiment, trainer=replace(experiment.trainer, epochs=3)), "run")
    total = History.from_csv("run/history.csv")["seconds"].sum()
    assert results["seconds"]["training"] == pytest.approx(total)
