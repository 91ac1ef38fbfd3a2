"""Predictions of stored runs: in Python, and for files on the command line."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

import jaxrnn
from experiments.mnist_rnn import MnistRNN
from jaxrnn import load_run
from jaxrnn.data.builders.idx import read_idx
from jaxrnn.data.pictures import normalize_digit, read_picture
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
    expected = jaxrnn.predict(jaxrnn.averaged(run.state), digits)
    np.testing.assert_allclose(run.predict(digits.inputs), expected, atol=1e-5)
    assert not np.allclose(expected, jaxrnn.predict(run.state, digits), atol=1e-3)
    np.testing.assert_allclose(
        run.predict(digits.inputs[:7].astype(np.float32) / 255), expected[:7], atol=1e-5
    )
    assert run.predict(digits.inputs[:0]).shape == (0, 10)


def test_lengths_end_sequences(run):
    digits = jaxrnn.load("mnist", split="test[:3]")
    cut = digits.replace(lengths=np.array([28, 5, 0], np.int32))
    expected = jaxrnn.predict(jaxrnn.averaged(run.state), cut)
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
    numbers = jaxrnn.Run(**{**vars(run), "class_names": ()})
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


def test_runs_of_earlier_versions_are_read(run):
    from jaxrnn.runs.stored import _about

    old = {"input_shape": [28, 28], "outputs": 10}
    about = _about(run.experiment, old)
    assert about["class_names"] == tuple("0123456789")
    assert about["pixels"]
