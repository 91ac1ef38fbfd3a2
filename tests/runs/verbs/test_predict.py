"""Predictions of stored runs: in Python, and for files on the command line."""

import dataclasses
import io
import json
import os
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import jaxrnn
from experiments.digits.pictures import normalize_digit
from experiments.mnist_rnn import MnistRNN
from jaxrnn import Datasets, Split, load_run
from jaxrnn.data.pictures import read_picture
from jaxrnn.runs import Ensemble
from jaxrnn.training import averaged
from tests.shared import SLICE, mnist_rnn

SEEDS = range(2)


@pytest.fixture(scope="module")
def digits():
    return jaxrnn.load("mnist", split="test[:10]").inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """A sweep of two runs with averaged weights, and ten test digits."""
    folder = tmp_path_factory.mktemp("predicting")
    words = [*SLICE, "--validation", "None", "--epochs", "2", "--seeds", len(SEEDS)]
    words += ["--learning-rate", "1e-2", "--average", "0.5", "--workdir", folder / "sweep"]
    mnist_rnn("fast", *words)
    (folder / "digits").mkdir()
    for index, image in enumerate(digits):
        Image.fromarray(image).save(folder / "digits" / f"{index}.png")
    np.save(folder / "digits.npy", digits)
    return folder


@pytest.fixture
def workdir(folder):
    return folder / "sweep" / "seed-0"


@pytest.fixture
def run(workdir):
    return load_run(workdir, MnistRNN)


@pytest.fixture
def sweep(folder):
    return folder / "sweep"


def said(capsys, verb, *words, page=mnist_rnn):
    """What a verb prints, line by line, and its exit status."""
    capsys.readouterr()
    status = 0
    try:
        page(verb, *words)
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines(), status


def answers(capsys, *words, page=mnist_rnn):
    """The lines that ``predict`` prints, nothing of which is an error."""
    out, err, status = said(capsys, "predict", *words, page=page)
    assert (err, status) == ([], 0)
    return out


def test_predictions_are_those_of_the_averaged_weights(run):
    test = jaxrnn.load("mnist", split="test[:1100]")
    expected = jaxrnn.predict(averaged(run.state), test)
    np.testing.assert_allclose(run.predict(test.inputs), expected, atol=1e-5)
    assert not np.allclose(expected, jaxrnn.predict(run.state, test), atol=1e-3)
    scaled = test.inputs[:7].astype(np.float32) / 255
    np.testing.assert_allclose(run.predict(scaled), expected[:7], atol=1e-5)
    assert run.predict(test.inputs[:0]).shape == (0, 10)


def test_lengths_end_sequences(run, digits):
    cut = Split(digits[:3], lengths=np.array([28, 5, 0], np.int32))
    expected = jaxrnn.predict(averaged(run.state), cut)
    np.testing.assert_allclose(run.predict(cut.inputs, cut.lengths), expected, atol=1e-5)
    with pytest.raises(ValueError, match="lengths must be between 0 and the 28 time steps"):
        run.predict(cut.inputs, [29, 0, 0])


def test_classes_have_names_and_probabilities(run, digits):
    names, probabilities = run.classify(digits)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert names.tolist() == [str(label) for label in run.predict(digits).argmax(-1)]
    with pytest.raises(ValueError, match="predicts numbers instead of classes"):
        dataclasses.replace(run, class_names=()).classify(digits)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 27, 28), np.uint8), r"inputs must be \(N, 28, 28\); got \(2, 27, 28\)"),
        (np.zeros((28, 28), np.uint8), r"got \(28, 28\)"),
        (np.full((1, 28, 28), 255.0), "uint8 pixels or floats from 0 to 1; got floats from 255 to"),
        (np.full((1, 28, 28), np.nan), "from nan to nan"),
    ],
)
def test_other_inputs_than_in_training_are_refused(run, inputs, message):
    with pytest.raises(ValueError, match=message):
        run.predict(inputs)


def test_runs_of_a_sweep_average_their_probabilities(sweep, digits, capsys, folder):
    together = load_run(sweep, MnistRNN)
    assert isinstance(together, Ensemble)
    assert repr(together) == "\n".join(repr(load_run(sweep / f"seed-{n}", MnistRNN)) for n in SEEDS)
    each = [load_run(sweep / f"seed-{seed}").classify(digits)[1] for seed in SEEDS]
    assert not np.allclose(each[0], each[1], atol=1e-2)
    names, probabilities = together.classify(digits)
    np.testing.assert_allclose(probabilities, np.mean(each, 0), atol=1e-6)
    out = answers(capsys, sweep, folder / "digits.npy", "--json", "--as-is")
    assert [json.loads(line)["class"] for line in out] == names.tolist()


def test_runs_of_a_sweep_must_read_the_same(sweep, run, monkeypatch):
    runs = iter([run, dataclasses.replace(run, input_shape=(14, 56))])
    monkeypatch.setattr("jaxrnn.runs.trained._load", lambda *words: next(runs))
    with pytest.raises(ValueError, match="read or predict different things"):
        load_run(sweep)


def test_sweep_is_evaluated_run_by_run(sweep, capsys):
    out, err, status = said(capsys, "evaluate", sweep)
    assert (err, status) == ([], 0)
    heads = [line for line in out if line.endswith(":")]
    after = [f"{sweep}/seed-{seed}, after epoch 2:" for seed in SEEDS]
    assert heads == [*after, "mean of 2 runs:"]
    accuracies = [float(line.split()[1]) for line in out if line.startswith("test_accuracy ")]
    assert np.mean(accuracies[:2]) == pytest.approx(accuracies[2])
    stored = [json.loads((sweep / f"seed-{s}" / "results.json").read_text()) for s in SEEDS]
    assert [results["test_accuracy"] for results in stored] == accuracies[:2]


def test_one_line_for_each_file(folder, workdir, run, digits, capsys):
    words = [folder / "digits", "--top", "3", "--as-is"]
    out, err, status = said(capsys, "predict", workdir, *words)
    assert (len(out), err, status) == (10, [], 0)
    names, probabilities = run.classify(digits)
    for index, line in enumerate(out):
        top = np.argsort(-probabilities[index])[:3]
        answer = ", ".join(f"{label} {probabilities[index, label]:.4f}" for label in top)
        assert line == f"{folder}/digits/{index}.png: {answer}"
        assert answer.startswith(names[index])


def test_drawings_become_digits_of_mnist(workdir, run, digits, capsys, tmp_path):
    paths = [tmp_path / f"{index}.jpg" for index in range(len(digits))]
    for path, image in zip(paths, digits, strict=True):
        paper = Image.new("RGB", (400, 300), (250, 240, 230))
        paper.paste((20, 30, 60), (200, 20), Image.fromarray(image).resize((224, 224)))
        paper.save(path)
    for words, ink in (([], "auto"), (["--ink", "dark"], "dark")):
        out = answers(capsys, workdir, tmp_path, *words)
        seen = np.stack([normalize_digit(read_picture(path), ink) for path in paths])
        assert [line.split(": ")[1][0] for line in out] == run.classify(seen)[0].tolist()


def idx(images):
    return np.array([0x803, *images.shape], ">u4").tobytes() + images.tobytes()


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize("write", [npy, idx, lambda images: npy(images.reshape(-1, 784))])
def test_arrays_and_idx_files_hold_several_examples(workdir, run, digits, capsys, tmp_path, write):
    path = tmp_path / "images"
    path.write_bytes(write(digits))
    out = answers(capsys, workdir, path, "--json", "--as-is")
    names, probabilities = run.classify(digits)
    lines = [json.loads(line) for line in out]
    assert [answer["file"] for answer in lines] == [f"{path}[{index}]" for index in range(10)]
    assert [answer["class"] for answer in lines] == names.tolist()
    got = [answer["probability"] for answer in lines]
    np.testing.assert_allclose(got, probabilities.max(-1), rtol=1e-5)
    assert all(len(answer["top"]) == 2 for answer in lines)


def test_standard_input_and_pipes_are_read(folder, workdir, capsys, monkeypatch):
    content = (folder / "digits" / "3.png").read_bytes()
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    out, err, status = said(capsys, "predict", workdir, "-", f"/dev/fd/{reading}", "--as-is")
    os.close(reading)
    assert ([line.split(": ")[0] for line in out], err) == (["-", f"/dev/fd/{reading}"], [])
    assert (status, len({line.split(": ")[1] for line in out})) == (0, 1)


def test_bad_files_get_a_line_and_others_are_read(folder, workdir, capsys, tmp_path):
    good = folder / "digits" / "3.png"
    bad = {
        "text.png": b"no picture",
        "empty.png": b"",
        "cut.png": good.read_bytes()[:100],
        "objects.npy": b"\x93NUMPY\x01\x00garbage",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGBA", (20, 20), (0, 0, 0, 99)).save(tmp_path / "alpha.png")
    Image.new("L", (30, 30), 7).save(tmp_path / "blank.png")
    words = [tmp_path / name for name in ("none.png", *bad, "alpha.png", "blank.png")]
    out, err, status = said(capsys, "predict", workdir, *words, good)
    assert [line.split(":")[0] for line in out] == [str(good)]
    assert status == 1
    assert [line.split(": ")[:2] for line in err] == [["error", str(path)] for path in words]
    assert "No such file" in err[0]
    assert all(str(tmp_path) not in line.split(": ", 2)[2] for line in err)


def test_names_are_one_line_and_hidden_files_are_left_out(workdir, capsys, tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").touch()
    Image.new("L", (30, 28), 7).save(wide := tmp_path.with_name("wide.png"))
    out, err, status = said(capsys, "predict", workdir, tmp_path, "a\nb.png", wide, "--as-is")
    assert (out, status) == ([], 1)
    assert err == [
        f"error: {tmp_path}: the directory contains no files",
        "error: 'a\\nb.png': No such file or directory",
        f"error: {wide}: the picture must be 28 pixels wide and 28 high; got 30 × 28",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "sweep/seed-0"], "give the files to read"),
        (["predict", "sweep/seed-0", "x.png", "--sample", "3"], "--sample needs a language model"),
        (["predict", "sweep/seed-0", "x.png", "--top", "0"], "--top: must be at least 1; got 0"),
        (["predict", "none", "x.png"], "none holds no run"),
        (["predict"], "give the directory of a run first: predict WORKDIR"),
        (["evaluate", "sweep/seed-0", "--workdir", "x"], "leave out --workdir: evaluate uses the"),
        (["export", "sweep/seed-0", "--best"], "give a new directory after that of the run"),
        (["export", "sweep", "out"], "sweep holds a sweep; give the directory of a run, as"),
    ],
)
def test_wrong_words_are_refused_in_one_line(folder, capsys, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    out, err, status = said(capsys, *words)
    assert (out, status, len(err)) == ([], 2, 1)
    assert message in err[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Numbers of three features, which are no images."""

    def build(self):
        generator = np.random.default_rng(0)
        inputs = generator.random((40, 10, 3), np.float32)
        return Datasets(Split(inputs, generator.integers(0, 3, 40)), {}, outputs=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnSteps(jaxrnn.Experiment):
    data: Steps = Steps()
    model: jaxrnn.RNNConfig = jaxrnn.RNNConfig(hidden=4)
    trainer: jaxrnn.TrainerConfig = jaxrnn.TrainerConfig(epochs=1, batch_size=20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letters:
    """Sequences of tokens with a name of one character each."""

    def build(self):
        inputs = np.random.default_rng(0).integers(0, 3, (20, 6)).astype(np.int32)
        return Datasets(Split(inputs, inputs, class_names=("a", "b", " ")), {}, outputs=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnLetters(OnSteps):
    data: Letters = Letters()
    model: jaxrnn.RNNConfig = jaxrnn.RNNConfig(hidden=4, pooling="none")
    task: jaxrnn.LanguageModeling = jaxrnn.LanguageModeling()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnImages(OnSteps):
    data: jaxrnn.ImageSequences = jaxrnn.ImageSequences()


def page_of(experiment):
    def page(*words):
        jaxrnn.main({"only": experiment}, default="only", arguments=[str(word) for word in words])

    return page


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A run on sequences that are not images, and the command line of its page."""
    page, folder = page_of(OnSteps()), tmp_path_factory.mktemp("steps")
    page("--workdir", folder / "run")
    return folder, page


def test_arrays_other_than_images_are_read_unchanged(steps, capsys):
    folder, page = steps
    inputs = OnSteps().data.build().train.inputs
    np.save(folder / "five.npy", inputs[:5])
    np.save(folder / "scalar.npy", np.float32(3))
    np.save(folder / "wide.npy", np.zeros((10, 4), np.float32))
    np.savetxt(folder / "one.csv", inputs[5], delimiter=",")
    (folder / "blank.csv").write_text(" \n")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 10, 3)}"
    (folder / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n")
    bad = [folder / name for name in ("scalar.npy", "wide.npy", "huge.npy", "blank.csv", "binary")]
    files = [*bad, folder / "five.npy", folder / "one.csv"]
    out, err, status = said(capsys, "predict", folder / "run", *files, "--json", page=page)
    assert status == 1
    assert [line.split(": ")[1] for line in err] == [str(path) for path in bad]
    expected, _ = load_run(folder / "run").classify(inputs[:6])
    assert [json.loads(line)["class"] for line in out] == expected.tolist()


def test_examples_of_several_lengths_are_answered_as_one_by_one(steps, capsys):
    folder, page = steps
    inputs, paths = OnSteps().data.build().train.inputs, []
    for length in (1, 3, 3, 7, 10):
        paths.append(folder / f"{len(paths)}-of-{length}.npy")
        np.save(paths[-1], inputs[len(paths), :length])
    out = answers(capsys, folder / "run", *paths, "--json", page=page)
    run = load_run(folder / "run")
    for line, path in zip(out, paths, strict=True):
        _, probabilities = run.classify(np.load(path)[None])
        np.testing.assert_allclose(json.loads(line)["probability"], probabilities.max(), atol=1e-5)


def test_wide_images_keep_their_shape_however_they_are_cut(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 32), np.uint8)  # 16² pixels
    labels = np.arange(20) % 2
    splits = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "wide.npz", **splits)
    data = jaxrnn.ImageSequences(name=str(tmp_path / "wide.npz"), rows=32)
    page = page_of(OnImages(data=data))
    page("--workdir", tmp_path / "run")
    run = load_run(tmp_path / "run", OnImages)
    assert run.image_shape == (8, 32, 1)
    Image.fromarray(images[3]).save(tmp_path / "wide.png")
    (line,) = answers(capsys, tmp_path / "run", tmp_path / "wide.png", "--json", page=page)
    _, probabilities = run.classify(data.as_inputs(images[3:4]))
    np.testing.assert_allclose(json.loads(line)["probability"], probabilities.max(), atol=1e-6)


def test_as_is_needs_images(steps, capsys):
    folder, page = steps
    out, err, status = said(capsys, "predict", folder / "run", "x.npy", "--as-is", page=page)
    assert (out, err, status) == ([], ["error: --as-is requires a network that reads images"], 2)


def test_texts_are_read_by_the_alphabet_and_continued(tmp_path, capsys):
    page = page_of(OnLetters())
    page("--workdir", tmp_path / "run")
    (tmp_path / "good.txt").write_text("ab a")
    (tmp_path / "bad.txt").write_text("abc")
    words = [tmp_path / "run", tmp_path / "bad.txt", tmp_path / "good.txt"]
    out, err, status = said(capsys, "predict", *words, "--json", page=page)
    assert status == 1
    assert err[0].startswith(f"error: {tmp_path}/bad.txt: the text that the network was trained on")
    run = load_run(tmp_path / "run")
    last = jax.nn.softmax(run.predict(np.array([[0, 1, 2, 0]], np.int32))[0, -1])
    assert json.loads(out[0])["class"] == run.class_names[int(np.argmax(last))]
    out, _, _ = said(capsys, "predict", *words, "--sample", 7, page=page)
    assert len(json.loads(out[0].split(": ")[1])) == 7
