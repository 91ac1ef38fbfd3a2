"""Predictions of stored runs: in Python, and for files on the command line."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
from jaxrnn.runs.stored import _about
from PIL import Image

import jaxrnn
from experiments.digits.pictures import normalize_digit, read_picture
from experiments.mnist_rnn import MnistRNN
from jaxrnn import Datasets, Split, load_run
from jaxrnn.data.readers.idx import read_idx
from jaxrnn.runs.verbs.predict import _in_batches, _outputs
from tests.conftest import SLICE, mnist_rnn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of one network and one of three, with averaged weights, and ten test digits."""
    folder = tmp_path_factory.mktemp("predicting")
    words = [*SLICE, "--epochs", "2", "--learning-rate", "1e-2", "--average", "0.5"]
    mnist_rnn("fast", *words, "--workdir", folder / "one")
    mnist_rnn("fast", *words, "--seeds", "3", "--workdir", folder / "three")
    digits = jaxrnn.load("mnist", split="test[:10]")
    (folder / "digits").mkdir()
    for index, image in enumerate(digits.inputs):
        Image.fromarray(image).save(folder / "digits" / f"{index}.png")
    np.save(folder / "digits.npy", digits.inputs)
    return folder


@pytest.fixture
def run(folder):
    return load_run(folder / "one", MnistRNN)


def predict(capsys, *words):
    """What the predict verb prints, and its exit status."""
    try:
        mnist_rnn("predict", *words)
        status = 0
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines(), status


def test_predictions_are_those_of_the_averaged_weights(run):
    digits = jaxrnn.load("mnist", split="test[:1100]")
    expected = jaxrnn.predict(jaxrnn.training.averaged(run.state), digits)
    np.testing.assert_allclose(run.predict(digits.inputs), expected, atol=1e-5)
    assert not np.allclose(expected, jaxrnn.predict(run.state, digits), atol=1e-3)
    np.testing.assert_allclose(
        run.predict(digits.inputs[:7].astype(np.float32) / 255), expected[:7], atol=1e-5
    )
    assert run.predict(digits.inputs[:0]).shape == (0, 10)


def test_lengths_end_sequences(run):
    digits = jaxrnn.load("mnist", split="test[:3]")
    cut = digits.replace(lengths=np.array([28, 5, 0], np.int32))
    expected = jaxrnn.predict(jaxrnn.training.averaged(run.state), cut)
    np.testing.assert_allclose(run.predict(cut.inputs, cut.lengths), expected, atol=1e-5)
    with pytest.raises(ValueError, match="lengths must be between 0 and the 28 time steps"):
        run.predict(cut.inputs, [29, 0, 0])


def test_classes_have_names_and_probabilities(run):
    digits = jaxrnn.load("mnist", split="test[:5]")
    names, probabilities = run.classify(digits.inputs)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert names.tolist() == [str(one) for one in run.predict(digits.inputs).argmax(-1)]


def test_several_networks_average_their_probabilities(folder):
    three = load_run(folder / "three")
    inputs = jaxrnn.load("mnist", split="test[:5]").inputs
    members = [three.classify(inputs, member=member)[1] for member in range(3)]
    assert not np.allclose(members[0], members[1], atol=1e-2)
    np.testing.assert_allclose(three.classify(inputs)[1], np.mean(members, 0), atol=1e-6)
    with pytest.raises(ValueError, match="member must be between 0 and 2; got 3"):
        three.predict(inputs, member=3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 27, 28), np.uint8), r"inputs must be \(N, 28, 28\); got \(2, 27, 28\)"),
        (np.zeros((28, 28), np.uint8), r"got \(28, 28\)"),
        (np.full((1, 28, 28), 255.0), "uint8 or floats from 0 to 1; got floats from 255 to 255"),
        (np.full((1, 28, 28), np.nan), "from nan to nan"),
    ],
)
def test_other_inputs_than_in_training_are_refused(run, inputs, message):
    with pytest.raises(ValueError, match=message):
        run.predict(inputs)


def test_regression_averages_outputs_and_has_no_classes(run):
    outputs = np.array([[[1.0]], [[3.0]]])
    np.testing.assert_array_equal(jaxrnn.Regression().combine(outputs), [[2.0]])
    numbers = jaxrnn.runs.Run(**{**vars(run), "class_names": ()})
    with pytest.raises(ValueError, match="predicts numbers instead of classes"):
        numbers.classify(np.zeros((1, 28, 28), np.uint8))


def test_one_line_for_each_file(folder, run, capsys):
    out, err, status = predict(capsys, folder / "one", folder / "digits", "--top", "3", "--as-is")
    assert (len(out), err, status) == (10, [], 0)
    digits = jaxrnn.load("mnist", split="test[:10]").inputs
    names, probabilities = run.classify(digits)
    for index, line in enumerate(out):
        top = np.argsort(-probabilities[index])[:3]
        words = ", ".join(f"{one} {probabilities[index, one]:.4f}" for one in top)
        assert line == f"{folder}/digits/{index}.png: {words}"
        assert words.startswith(names[index])


def test_drawings_become_digits_of_mnist(folder, run, capsys, tmp_path):
    digits = jaxrnn.load("mnist", split="test[:10]").inputs
    for index, image in enumerate(digits):
        paper = Image.new("RGB", (400, 300), (250, 240, 230))
        paper.paste((20, 30, 60), (200, 20), Image.fromarray(image).resize((224, 224)))
        paper.save(tmp_path / f"{index}.jpg")
    out, err, status = predict(capsys, folder / "one", tmp_path)
    assert (err, status) == ([], 0)
    seen = np.stack([normalize_digit(read_picture(tmp_path / f"{n}.jpg")) for n in range(10)])
    assert [line.split(": ")[1][0] for line in out] == run.classify(seen)[0].tolist()


def test_json_arrays_and_standard_input(folder, run, capsys, monkeypatch):
    content = (folder / "digits.npy").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    out, err, status = predict(capsys, folder / "one", "-", "--json", "--as-is")
    assert (err, status) == ([], 0)
    digits = jaxrnn.load("mnist", split="test[:10]").inputs
    names, probabilities = run.classify(digits)
    answers = [json.loads(line) for line in out]
    assert [one["file"] for one in answers] == [f"-[{index}]" for index in range(10)]
    assert [one["class"] for one in answers] == names.tolist()
    np.testing.assert_allclose(
        [a["probability"] for a in answers], probabilities.max(-1), rtol=1e-5
    )
    assert all(len(one["top"]) == 2 for one in answers)


def test_idx_files(folder, capsys, tmp_path):
    header = np.array([0x803, 2, 28, 28], ">u4").tobytes()
    path = tmp_path / "two-images-idx3-ubyte"
    path.write_bytes(header + jaxrnn.load("mnist", split="test[:2]").inputs.tobytes())
    assert read_idx(path)[0].shape == (2, 28, 28)
    out, err, status = predict(capsys, folder / "one", path)
    assert ([line.split(":")[0] for line in out], err, status) == (
        [f"{path}[0]", f"{path}[1]"], [], 0,
    )  # fmt: skip


def test_bad_files_get_a_line_and_others_are_read(folder, capsys, tmp_path):
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
    words = [*(tmp_path / name for name in bad), tmp_path / "alpha.png", tmp_path / "blank.png"]
    out, err, status = predict(capsys, folder / "one", tmp_path / "none.png", *words, good)
    assert [line.split(":")[0] for line in out] == [str(good)]
    assert status == 1
    assert [line.split(": ")[:2] for line in err] == [
        ["error", str(path)] for path in (tmp_path / "none.png", *words)
    ]
    assert "No such file" in err[0]
    assert all(str(tmp_path) not in line.split(": ", 2)[2] for line in err)


def test_as_is_needs_the_size_of_the_training_images(folder, capsys, tmp_path):
    Image.new("L", (30, 28), 7).save(tmp_path / "wide.png")
    out, err, status = predict(capsys, folder / "one", tmp_path / "wide.png", "--as-is")
    assert (out, status) == ([], 1)
    assert err == [
        f"error: {tmp_path}/wide.png: the picture must be 28 pixels wide and 28 high; got 30 × 28"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the files to read"),
        (["x.png", "--sample", "3"], "--sample needs a language model"),
        (["x.png", "--member", "1"], "member must be between 0 and 0; got 1"),
        (["x.png", "--top", "0"], "--top: must be at least 1; got 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(folder, capsys, words, message):
    out, err, status = predict(capsys, folder / "one", *words)
    assert (out, status, len(err)) == ([], 2, 1)
    assert message in err[0]


@pytest.mark.parametrize("kind", [jaxrnn.Experiment, MnistRNN])
def test_runs_of_earlier_versions_are_read(folder, run, kind):
    config = json.loads((folder / "one" / "config.json").read_text())
    description = {"input_shape": [28, 28], "outputs": 10, "config": config}
    about = _about(run.experiment, description)
    assert about["class_names"] == tuple("0123456789")
    assert about["pixels"]
    assert load_run(folder / "one", kind).pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Integers of three features, which are no images."""

    def build(self):
        generator = np.random.default_rng(0)
        inputs = generator.integers(0, 256, (40, 10, 3)).astype(np.uint8)
        return Datasets(Split(inputs, generator.integers(0, 3, 40)), {}, outputs=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnSteps(jaxrnn.Experiment):
    data: Steps = Steps()
    model: jaxrnn.RNNConfig = jaxrnn.RNNConfig(hidden=4)
    trainer: jaxrnn.TrainerConfig = jaxrnn.TrainerConfig(epochs=1, batch_size=20)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A run on sequences of bytes that are not images, and a function that predicts with it."""
    folder = tmp_path_factory.mktemp("steps")

    def page(capsys, *words):
        capsys.readouterr()
        try:
            jaxrnn.main(
                {"only": OnSteps()}, default="only", arguments=[str(word) for word in words]
            )
            status = 0
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines(), status

    jaxrnn.main({"only": OnSteps()}, default="only", arguments=["--workdir", str(folder / "run")])
    return folder, page


def test_arrays_that_are_no_images_are_read_as_they_are(steps, capsys):
    folder, page = steps
    inputs = OnSteps().data.build().train.inputs
    np.save(folder / "five.npy", inputs[:5])
    np.save(folder / "scalar.npy", np.uint8(3))
    np.save(folder / "wide.npy", np.zeros((10, 4), np.uint8))
    (folder / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 10, 3)}".ljust(117)
        + b"\n"
    )
    names = [folder / f"{name}.npy" for name in ("scalar", "wide", "huge", "none", "five")]
    out, err, status = page(capsys, "predict", folder / "run", *names, "--json")
    assert status == 1
    assert [line.split(": ")[1] for line in err] == [str(name) for name in names[:4]]
    expected, _ = load_run(folder / "run").classify(inputs[:5])
    assert [json.loads(line)["class"] for line in out] == expected.tolist()


def test_examples_of_several_lengths_are_answered_as_one_by_one(steps, capsys):
    folder, _ = steps
    run, inputs = load_run(folder / "run"), OnSteps().data.build().train.inputs
    run = dataclasses.replace(run, pixels=False)  # which would fix the number of time steps
    some = [inputs[index, : index + 1].astype(np.float32) / 255 for index in range(5)]
    together = [*_outputs(run, some, None)]
    for one, output in zip(some, together, strict=True):
        np.testing.assert_allclose(output, run.predict(one[None])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ink", "dark"], "--ink needs a network that reads digits"),
        (["--as-is"], "--as-is needs a network that reads images"),
    ],
)
def test_options_without_effect_are_refused(steps, capsys, words, message):
    folder, page = steps
    out, err, status = page(capsys, "predict", folder / "run", "x.npy", *words)
    assert (out, status, len(err)) == ([], 2, 1)
    assert message in err[0]


def test_outputs_that_are_not_finite_are_an_error(steps, capsys, monkeypatch):
    folder, page = steps
    np.save(folder / "one.npy", np.zeros((10, 3), np.uint8))
    nan = lambda self, inputs, *rest, **options: np.full((len(inputs), 3), np.nan)  # noqa: E731
    monkeypatch.setattr(jaxrnn.runs.Run, "predict", nan)
    out, err, status = page(capsys, "predict", folder / "run", folder / "one.npy")
    assert (out, status) == ([], 1)
    assert err == [f"error: {folder}/one.npy: the outputs of the network are not finite"]


def test_batches_are_bounded_by_their_padded_length():
    examples = [(str(n), np.zeros(length)) for n, length in enumerate([10, 60_000, 30_000, 5])]
    batches = [[name for name, _ in batch] for batch in _in_batches(iter(examples))]
    assert batches == [["0"], ["1"], ["2", "3"]]


def test_empty_directories_and_closed_input_are_said(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").touch()
    out, err, status = predict(capsys, folder / "one", tmp_path, "-", "a\nb.png")
    assert (out, status) == ([], 1)
    assert err == [
        f"error: {tmp_path}: the directory has no files in it",
        "error: -: standard input is closed",
        "error: 'a\\nb.png': No such file or directory",
    ]
