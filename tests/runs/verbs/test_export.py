"""Exported networks give, without this library, what they give with it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxrnn
from experiments.digits.page import drawing_page
from experiments.digits.verbs import ExportDigits, PredictDigits
from experiments.mnist_rnn import PRESETS
from jaxrnn import History, Regression, RNNConfig, create_train_state
from jaxrnn.runs import Run
from jaxrnn.runs.verbs.export import Export, export_run

pytestmark = pytest.mark.program

NETWORKS = {
    "simple": RNNConfig(hidden=12),
    "gru": RNNConfig(hidden=12, cell="gru"),
    "lstm": RNNConfig(hidden=12, cell="lstm"),
    "two layers": RNNConfig(hidden=12, layers=2, activation="relu", bidirectional=True),
    "per step": RNNConfig(hidden=12, pooling="none"),
}
BATCHES = (1, 1000)

WITHOUT_JAXRNN = """
import pathlib, runpy, sys

import numpy as np

sys.modules["jaxrnn"] = sys.modules["flax"] = None  # so that importing them fails
folder = pathlib.Path(sys.argv[1])
inputs, lengths = np.load(folder / "inputs.npy"), np.load(folder / "lengths.npy")
for out in sorted(folder.glob("*/load.py")):
    predict = runpy.run_path(str(out))["predict"]
    for size in map(int, sys.argv[2:]):
        parts = [slice(start, start + size) for start in range(0, len(inputs), size)]
        parts = parts if size == 1000 else parts[:1]  # all images, in batches of 1,000
        outputs = [predict(inputs[part], lengths[part]) for part in parts]
        np.save(out.with_name(f"{size}.npy"), np.concatenate(outputs))
    np.save(out.with_name("whole.npy"), predict(inputs[:1].astype(int)))
"""


def trained(config):
    """Return a run of a network with random weights, none of which is 0."""
    example = np.zeros((1, 28, 28), np.uint8)
    state = create_train_state(0, config.build(10), jaxrnn.Adam().build(1), example)
    generator = np.random.default_rng(0)
    noisy = lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return Run(
        experiment=dataclasses.replace(PRESETS["keras"], model=config),
        state=state.replace(params=jax.tree.map(noisy, state.params)),
        history=History().append(epoch=1, test_accuracy=0.5, seconds=1.0),
        key=jax.random.key(0),
        input_shape=(28, 28),
        outputs=10,
        class_names=tuple("0123456789"),
        pixels=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each network exported, and what it gives in a process without jaxrnn and Flax."""
    folder = tmp_path_factory.mktemp("exports")
    digits = jaxrnn.load("mnist", split="test[:2000]")
    lengths = np.random.default_rng(1).integers(0, 29, len(digits)).astype(np.int32)
    np.save(folder / "inputs.npy", digits.inputs)
    np.save(folder / "lengths.npy", lengths)
    for name, config in NETWORKS.items():
        list(export_run(trained(config), Export(Path(), folder / name)))
    (folder / "without.py").write_text(WITHOUT_JAXRNN)
    command = [sys.executable, "without.py", ".", *map(str, BATCHES)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, folder):
    """The folder of a network, what it reads, and what it predicts."""
    inputs, lengths = np.load(folder / "inputs.npy"), np.load(folder / "lengths.npy")
    run = trained(NETWORKS[request.param])
    return folder / request.param, inputs, lengths, run.predict(inputs, lengths), run


def agree(got, expected, lengths):
    """Whether outputs are the same to 1e-5, of a tagger up to the end of each sequence."""
    if expected.ndim == 3:
        valid = np.arange(28) < lengths[: len(got), None]
        got, expected = got[valid], expected[valid]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_stablehlo_predicts_without_jaxrnn_and_flax(network):
    out, inputs, lengths, expected, run = network
    for size in BATCHES:
        got = np.load(out / f"{size}.npy")
        agree(got, expected[: len(got)], lengths)
    assert len(got) == 2000
    agree(np.load(out / "whole.npy"), run.predict(inputs[:1]), np.full(1, 28))


def test_onnx_predicts_the_same(network):
    onnxruntime = pytest.importorskip("onnxruntime")
    out, inputs, lengths, expected, _ = network
    session = onnxruntime.InferenceSession(out / "model.onnx")
    scaled = inputs.astype(np.float32) / 255
    for size in (1, 7, 2000):
        (got,) = session.run(None, {"inputs": scaled[:size], "lengths": lengths[:size]})
        agree(got, expected[:size], lengths)


def test_description_of_inputs_and_training(network):
    out, _, _, expected, run = network
    about = json.loads((out / "model.json").read_text())
    assert about["input"] == {"shape": ["batch", 28, 28], "dtype": "float32", "scale": 1 / 255}
    assert about["output"]["shape"] == ["batch", *expected.shape[1:]]
    assert about["class_names"] == list("0123456789")
    assert about["parameters"] == sum(map(np.size, jax.tree.leaves(run.state.params)))
    assert about["metrics"] == {"test_accuracy": 0.5}
    assert about["trained_with"] == run.experiment.identity


def test_weights_have_the_names_of_the_parameters(network):
    out, *_, run = network
    assert {"head/bias", "head/kernel"} < load_file(out / "weights.safetensors").keys()
    params = jaxrnn.export.load_weights(run.model, out / "weights.safetensors")
    chex.assert_trees_all_equal(params, run.state.params)


def test_export_without_onnx_says_why(tmp_path):
    run = trained(RNNConfig(hidden=4, cell="mingru"))
    *lines, last = export_run(run, Export(Path(), tmp_path / "out"))
    assert [line.split(":")[0].rpartition("/")[2] for line in lines] == [
        *("load.py", "model.json", "model.stablehlo", "weights.safetensors"),
    ]
    assert last.startswith("no model.onnx: ")
    assert "mingru" in last


def test_regression_is_described_as_numbers(tmp_path):
    run = trained(RNNConfig(hidden=4))
    experiment = dataclasses.replace(run.experiment, task=Regression())
    numbers = dataclasses.replace(run, experiment=experiment, class_names=())
    list(export_run(numbers, Export(Path(), tmp_path / "out")))
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["output"]["meaning"] == "numbers"
    assert about["class_names"] == []


def test_nonempty_directory_is_left_unchanged(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not an empty directory"):
        next(export_run(trained(RNNConfig(hidden=4)), Export(Path(), tmp_path)))
    assert [*tmp_path.rglob("*")] == [tmp_path / "file"]


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (RNNConfig(hidden=4, bidirectional=True), {}, "a bidirectional network"),
        (RNNConfig(hidden=4), {"class_names": tuple("abcdefghij")}, "--page requires a network"),
    ],
)
def test_networks_without_a_web_page(config, changes, message, tmp_path):
    run = dataclasses.replace(trained(config), **changes)
    with pytest.raises(ValueError, match=message):
        next(export_run(run, ExportDigits(Path(), tmp_path / "out", page=True)))
    assert not (tmp_path / "out").exists()


def test_web_page_has_the_order_of_the_pixels(tmp_path):
    run = trained(RNNConfig(hidden=4))
    data = dataclasses.replace(run.experiment.data, permute=True, permutation=5)
    experiment = dataclasses.replace(run.experiment, data=data)
    for name, order in (("plain", None), ("permuted", np.random.RandomState(5).permutation(784))):
        list(export_run(run, ExportDigits(Path(), tmp_path / name, page=True)))
        html = (tmp_path / name / "digit.html").read_text()
        assert html == drawing_page(run.model, run.state.params, (28, 28), "0123456789", order)
        run = dataclasses.replace(run, experiment=experiment)


def test_ink_needs_gray_images_of_28_pixels():
    run = dataclasses.replace(trained(RNNConfig(hidden=4)), class_names=tuple("abcdefghij"))
    eye = np.eye(28)
    for ink in (None, "none"):
        read = PredictDigits(Path(), (), ink=ink).reader(run).convert(eye)
        np.testing.assert_array_equal(read, 255 * eye)
    read = PredictDigits(Path(), (), ink="bright").reader(run).convert(eye)
    assert not read[:4].any()  # a margin, as around the digits of MNIST
    run = dataclasses.replace(run, input_shape=(28, 32))
    with pytest.raises(ValueError, match="--ink requires a network that reads gray images of 28"):
        PredictDigits(Path(), (), ink="dark").reader(run)
