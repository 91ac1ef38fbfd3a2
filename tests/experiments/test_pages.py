"""Every page, small: it crashes after its first epoch, resumes, and ends as if it never had."""

import dataclasses
import importlib
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn import History, RNNConfig, TrainerConfig, load_run
from jaxrnn.data.splits import scale
from jaxrnn.runs.trained import evaluate_run
from tests.conftest import assert_identical
from tests.data.test_datasets import sunspots, vowels
from tests.experiments.noise import NoisyRNN

pytestmark = pytest.mark.program

SMALL_DATA = {
    "sequential_mnist": {
        **{"train": "train[:60]", "validation": "train[60:80]", "test": "test[:20]", "rows": 28},
        "permute": True,
    },
    "adding": {"length": 12, "examples": 60, "held_out": 20},
    "copying": {"delay": 5, "examples": 60, "held_out": 20},
    "language": {"rows": 20},
    "japanese_vowels": {},
    "sunspots": {"window": 5},
}
PAGES = [
    *(("sequential_mnist", "permuted"), ("adding", "elman"), ("copying", "long")),
    *(("language", "lstm"), ("japanese_vowels", "gru"), ("sunspots", "gru")),
]


def small(page, preset, folder):
    """The experiment of a page, made to take a second."""
    data = dict(SMALL_DATA[page])
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
    return dataclasses.replace(
        whole,
        data=dataclasses.replace(whole.data, **data),
        model=dataclasses.replace(whole.model, **model),
        trainer=dataclasses.replace(whole.trainer, **trainer),
    )


def crash(record):
    raise RuntimeError("lost power")


def run(experiment, workdir):
    there = dataclasses.replace(experiment.runtime, workdir=Path(workdir))
    return jaxrnn.run(dataclasses.replace(experiment, runtime=there))


@pytest.mark.parametrize(("page", "preset"), PAGES)
def test_a_crash_and_a_resumption(page, preset, tmp_path, monkeypatch, capsys):
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
    runs = [load_run(name, type(experiment)) for name in ("whole", "crashed")]
    assert_identical(*(one.state for one in runs))
    for one, other in zip(*(one.history.rows for one in runs), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    best = experiment.task.best
    assert again[f"validation_{best}"] == results[f"validation_{best}"]
    assert Path("whole/curves.png").exists()
    if page == "language":
        drawing = dataclasses.replace(experiment.runtime, sample=5)
        drawn = evaluate_run(dataclasses.replace(experiment, runtime=drawing), Path("whole"))
        assert len(drawn["sample"]) == 5
    check_predictions(experiment, tmp_path, capsys)


def check_predictions(experiment, folder, capsys):
    """The run called whole answers in Python, to files, and exported, and always the same."""
    verbs = partial(jaxrnn.main, {"small": experiment}, default="small")
    kept = load_run("whole", type(experiment), best=experiment.trainer.patience is not None)
    split = experiment.data.build().evals["validation"]
    outputs = kept.predict(split.inputs, split.lengths)

    verbs(arguments=["export", "whole", "out"])
    exported = jax.export.deserialize(bytearray(Path("out/model.stablehlo").read_bytes()))
    lengths = split.lengths
    if lengths is None:
        lengths = np.full(len(split), split.inputs.shape[1], np.int32)
    inputs = split.inputs.astype(np.int32) if kept.tokens else np.float32(scale(split.inputs))
    got = exported.call(inputs, lengths)
    shown = np.arange(outputs.shape[1]) < lengths[:, None] if outputs.ndim == 3 else ...
    np.testing.assert_allclose(got[shown], outputs[shown], atol=1e-5)

    capsys.readouterr()
    files = [write_example(kept, split, index, folder) for index in range(min(2, len(split)))]
    verbs(arguments=["predict", "whole", *files, "--json"])
    for file, line, output in zip(files, capsys.readouterr().out.splitlines(), outputs):  # noqa: B905
        answer = json.loads(line)
        assert answer.pop("file") == file
        length = lengths[files.index(file)]
        check_answer(kept, answer, output[:length] if output.ndim == 2 else output)


def write_example(kept, split, index, folder):
    """Write an example of a split as a file that is read as the same; returns its path."""
    inputs = split.inputs[index]
    if split.lengths is not None:
        inputs = inputs[: split.lengths[index]]
    path = folder / f"{index}.npy"
    if isinstance(kept.experiment.task, jaxrnn.LanguageModeling):
        path = path.with_suffix(".txt")
        path.write_text("".join(kept.class_names[token] for token in inputs))
    elif kept.pixels:
        np.save(path, jaxrnn.load("mnist", split="train[60:80]").inputs[index])
    else:
        np.save(path, inputs)
    return str(path)


def check_answer(kept, answer, output):
    """What the predict verb says is what the outputs say."""
    if isinstance(kept.experiment.task, jaxrnn.Regression):
        np.testing.assert_allclose(answer["outputs"], output, atol=1e-5)
        return
    probabilities = np.asarray(jax.nn.softmax(output))
    if "classes" in answer:
        np.testing.assert_allclose(answer["probabilities"], probabilities.max(-1), atol=1e-5)
        return
    last = probabilities[-1] if probabilities.ndim == 2 else probabilities
    assert answer["class"] == kept.class_names[last.argmax()]
    # Pictures are fitted to the form of MNIST again, which changes some a little.
    np.testing.assert_allclose(
        answer["probability"], last.max(), atol=0.02 if kept.pixels else 1e-5
    )


def experiment_on_noise(**trainer):
    """A network that learns noise by heart, so that validation gets worse."""
    return NoisyRNN(
        model=RNNConfig(hidden=32),
        optimizer=jaxrnn.Adam(learning_rate=0.03),
        trainer=TrainerConfig(**{"epochs": 60, "batch_size": 20, **trainer}),
    )


def test_patience_keeps_the_best_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiment = experiment_on_noise(patience=3, seeds=2)
    results = run(experiment, "run")
    epochs, best = results["epochs"], results["epoch"]
    assert (best, results["stopped_early"]) == (epochs - 3, True)
    assert epochs < 60
    history = History.from_csv("run/history.csv")
    assert best == 1 + np.argmin(history["validation_rmse"])
    assert results["validation_rmse"] == pytest.approx(history["validation_rmse"][best - 1], 1e-6)
    assert f"epoch {best} of {epochs} was the best and is kept" in capsys.readouterr().out
    there = dataclasses.replace(experiment.runtime, workdir=Path("run"))
    stored = evaluate_run(dataclasses.replace(experiment, runtime=there), Path("run"))
    assert stored["epoch"] == best
    assert np.mean(stored["validation_rmse"]) == pytest.approx(results["validation_rmse"], 1e-6)
    with pytest.raises(ValueError, match=f"which --patience stopped after epoch {epochs}"):
        run(experiment, "run")
    Path("run/results.json").unlink()  # as if killed before it was written
    assert {**run(experiment, "run"), "seconds": 0} == {**results, "seconds": 0}
    assert len(History.from_csv("run/history.csv")) == epochs


def test_patience_without_a_stop_keeps_the_best_epoch(tmp_path):
    results = run(experiment_on_noise(patience=14, epochs=15), tmp_path / "run")
    assert (results["epochs"], results["stopped_early"]) == (15, False)
    assert results["epoch"] == results["best_epoch"] < 15


def test_runs_of_before_an_option_are_resumed(tmp_path):
    experiment = experiment_on_noise(epochs=1)
    run(experiment, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    for group, name in (("model", "dropout"), ("trainer", "patience"), ("model", "chrono")):
        del config[group][name]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert run(experiment_on_noise(epochs=2), tmp_path / "run")["epochs"] == 2
