"""Weights of Keras and PyTorch: the same logits, and files that every side reads.

``foreign.safetensors`` holds small networks of the real libraries and their outputs, for machines
without these. ``python -m tests.export.test_weights`` makes it.
"""

import itertools
import os
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from chex import assert_trees_all_equal
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxrnn import RNNModel
from jaxrnn.export import load_weights, save_weights

FOREIGN = Path(__file__).with_name("foreign.safetensors")
HIDDEN, FEATURES, CLASSES, VOCABULARY = 3, 2, 4, 6
SHAPES = [*itertools.product(("simple", "gru", "lstm"), (1, 2), (False, True))]
ALL = [*((*shape, None) for shape in SHAPES), ("gru", 1, False, 5)]
STORED = [case for case in ALL if case[1:3] in ((1, False), (2, True))]
NAMES = {"rnn.": "net.encoder.", "head.": "fc.", "embedding.": "words."}


def keras_network(cell, layers, bidirectional, embedding):
    """Build a network of Keras with random weights, and a function that applies it."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="keras is in the extra bench")
    kind = getattr(keras.layers, {"simple": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}[cell])
    with jax.numpy_rank_promotion("allow"):  # which Keras needs, here and below
        model = keras.Sequential([keras.layers.Input((None,) if embedding else (None, FEATURES))])
        if embedding:
            model.add(keras.layers.Embedding(VOCABULARY, embedding))
        for layer in range(layers):
            recurrent = kind(HIDDEN, return_sequences=layer < layers - 1)
            model.add(keras.layers.Bidirectional(recurrent) if bidirectional else recurrent)
        model.add(keras.layers.Dense(CLASSES))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=array.shape) for array in model.get_weights()])

    def apply(inputs):
        with jax.numpy_rank_promotion("allow"):
            return np.asarray(model(inputs))

    return model, apply


def torch_network(cell, layers, bidirectional, embedding):
    """Build a network of PyTorch, and a function that applies it."""
    torch = pytest.importorskip("torch", reason="torch is in the extra bench")
    torch.manual_seed(0)
    kind = getattr(torch.nn, {"simple": "RNN", "gru": "GRU", "lstm": "LSTM"}[cell])
    options = {"batch_first": True, "bidirectional": bidirectional}
    parts = {
        "rnn": kind(embedding or FEATURES, HIDDEN, layers, **options),
        "head": torch.nn.Linear(HIDDEN * (1 + bidirectional), CLASSES),
        **({"embedding": torch.nn.Embedding(VOCABULARY, embedding)} if embedding else {}),
    }

    def apply(inputs):
        with torch.no_grad():
            vectors = torch.from_numpy(inputs)
            last = parts["rnn"](parts["embedding"](vectors) if embedding else vectors)[1]
            last = last[0] if cell == "lstm" else last
            read = torch.cat([last[-2], last[-1]], dim=-1) if bidirectional else last[-1]
            return parts["head"](read).numpy()

    return torch.nn.ModuleDict(parts), apply


LIBRARIES = {"keras": keras_network, "torch": torch_network}


def inputs_of(embedding):
    rng = np.random.default_rng(2)
    if embedding:
        return rng.integers(0, VOCABULARY, (5, 4)).astype(np.int32)
    return rng.normal(size=(5, 4, FEATURES)).astype(np.float32)


def model_of(cell, layers=1, bidirectional=False, embedding=None, **options):
    return RNNModel(
        hidden=HIDDEN,
        outputs=CLASSES,
        cell=cell,
        layers=layers,
        bidirectional=bidirectional,
        embedding=embedding,
        vocabulary=VOCABULARY if embedding else None,
        **options,
    )


@partial(jax.jit, static_argnums=0)
def logits(model, params, inputs):
    return model.apply({"params": params}, inputs)


def random_params(model, features=FEATURES):
    example = np.zeros((1, 1), np.int32) if model.embedding else np.zeros((1, 1, features))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(example))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def renamed(arrays, names):
    for old, new in names.items():
        arrays = {name.replace(old, new): array for name, array in arrays.items()}
    return arrays


def make_foreign():
    """Write the file of stored networks, with the real libraries."""
    stored = {}
    for library, build in LIBRARIES.items():
        for case in STORED:
            network, apply = build(*case)
            if library == "torch":
                arrays = {name: array.numpy() for name, array in network.state_dict().items()}
                arrays = renamed(arrays, NAMES)
            else:
                arrays = {f"arr_{place}": row for place, row in enumerate(network.get_weights())}
            stored |= {f"{library} {case} {name}": array for name, array in arrays.items()}
            stored[f"{library} {case} outputs"] = apply(inputs_of(case[-1]))
    FOREIGN.write_bytes(safetensors.numpy.save(stored))


def stored_network(library, case):
    """The names and arrays of a stored network, and its outputs."""
    prefix = f"{library} {case} "
    arrays = {
        name.removeprefix(prefix): array
        for name, array in safetensors.numpy.load_file(FOREIGN).items()
        if name.startswith(prefix)
    }
    outputs = arrays.pop("outputs")
    if library == "keras":  # the file has sorted them as words, arr_10 before arr_2
        arrays = {f"arr_{place}": arrays[f"arr_{place}"] for place in range(len(arrays))}
    return arrays, outputs


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", STORED, ids=str)
def test_logits_of_stored_networks(library, case, tmp_path):
    arrays, outputs = stored_network(library, case)
    model = model_of(*case)
    params = load_weights(model, [*arrays.values()] if library == "keras" else arrays)
    got, file = logits(model, params, inputs_of(case[-1])), tmp_path / "weights"
    np.testing.assert_allclose(got, outputs, rtol=0, atol=1e-5)

    save_weights(model, params, file, layout=library)
    arrays = renamed(arrays, {theirs: ours for ours, theirs in NAMES.items()})
    if library == "torch":
        saved = safetensors.numpy.load_file(file)
    else:
        with np.load(file) as content:
            saved = dict(content)
        assert [*saved] == [*arrays]
    assert jax.tree.map(np.shape, saved) == jax.tree.map(np.shape, arrays)
    if library == "torch" and case[0] == "lstm":  # whose second bias is in the first
        for name in (name for name in saved if "bias_ih" in name):
            second = name.replace("ih", "hh")
            np.testing.assert_array_equal(saved[name], arrays[name] + arrays[second])
            assert not saved[second].any()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", ALL, ids=str)
def test_logits_of_the_libraries_themselves(library, case, tmp_path):
    network, apply = LIBRARIES[library](*case)
    inputs, model, file = inputs_of(case[-1]), model_of(*case), tmp_path / "weights"
    outputs = apply(inputs)
    weights = network.get_weights() if library == "keras" else network.state_dict()
    params = load_weights(model, weights)
    np.testing.assert_allclose(logits(model, params, inputs), outputs, rtol=0, atol=1e-5)

    save_weights(model, params, file, layout=library)
    if library == "keras":
        network.set_weights([0 * array for array in network.get_weights()])
        with np.load(file) as arrays:
            network.set_weights([*arrays.values()])
    else:
        from safetensors.torch import load_file

        for parameter in network.parameters():
            parameter.data.zero_()
        network.load_state_dict(load_file(file))
    np.testing.assert_allclose(apply(inputs), outputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [*itertools.starmap(model_of, STORED), RNNModel(cell=nn.LSTMCell(3), outputs=4)],
    ids=[*map(str, STORED), "cell object"],
)
def test_round_trips_are_bit_exact(model, tmp_path):
    params = random_params(model)
    for layout in ("flax", "keras", "torch"):
        save_weights(model, params, tmp_path / layout, layout=layout)
        assert_trees_all_equal(load_weights(model, tmp_path / layout), params)


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"cell": "mgu", "layers": 2}, "cell mgu"),
        ({"cell": "mingru", "bidirectional": True}, "cell mingru"),
        ({"cell": "lru"}, "cell lru"),
        ({"cell": "gru", "block": True}, "block"),
        ({"cell": "lstm", "layer_norm": True, "embedding": 2}, "layer_norm"),
        ({"cell": nn.MGUCell(5)}, "cell MGUCell"),
    ],
)
def test_every_network_has_a_flax_file_and_some_no_other(options, lacking, tmp_path):
    model = model_of(**options)
    params = random_params(model)
    save_weights(model, params, tmp_path / "flax")
    assert_trees_all_equal(load_weights(model, tmp_path / "flax"), params)
    for layout in ("keras", "torch"):
        with pytest.raises(ValueError, match=f"no counterpart of {lacking}; use the flax layout$"):
            save_weights(model, params, tmp_path / layout, layout=layout)
        assert not (tmp_path / layout).exists()
    with pytest.raises(ValueError, match=f"no counterpart of {lacking}"):
        load_weights(model, stored_network("torch", STORED[2])[0])


def test_any_module_has_a_flax_file(tmp_path):
    save_weights(nn.Dense(2), {"kernel": np.ones((3, 2))}, tmp_path / "flax")
    assert safetensors.numpy.load_file(tmp_path / "flax")["kernel"].dtype == np.float32


def tensor_of(array):
    """A PyTorch tensor that NumPy can't read before ``detach().cpu().float().numpy()``."""
    tensor = Mock(spec=["detach"])
    tensor.detach().cpu().float().numpy.return_value = array
    return tensor


def test_tensors_and_names_of_any_prefix():
    arrays, _ = stored_network("torch", ("gru", 2, True, None))
    model = model_of("gru", 2, True)
    expected = load_weights(model, arrays)
    tensors = {name: tensor_of(array) for name, array in arrays.items()}
    for weights in (tensors, {"epoch": 3, "state_dict": tensors}, {"model_state_dict": tensors}):
        assert_trees_all_equal(load_weights(model, weights), expected)
    for rnn, head in (("", "out."), ("module.a.weights.", "module.b."), ("rnn.", "rnn.fc.")):
        weights = renamed(dict(reversed(arrays.items())), {"net.encoder.": rnn, "fc.": head})
        assert_trees_all_equal(load_weights(model, weights), expected)


def test_bfloat16_files(tmp_path):
    half = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.bfloat16), GRU)
    safetensors.numpy.save_file(flatten_dict(half, sep="/"), tmp_path / "half")
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float32), half)
    assert_trees_all_equal(load_weights(model_of("gru"), tmp_path / "half"), expected)


def test_sources_are_told_apart_by_content(tmp_path):
    model = model_of("gru")
    params = random_params(model, features=7)  # as many as the weights have
    assert_trees_all_equal(load_weights(model, params), params)
    assert_trees_all_equal(load_weights(model, flatten_dict(params, sep="/")), params)
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    assert_trees_all_equal(load_weights(model, double), params)
    save_weights(model, params, tmp_path / "no.suffix", layout="keras")
    with np.load(tmp_path / "no.suffix") as arrays:
        assert_trees_all_equal(load_weights(model, arrays), params)
        assert_trees_all_equal(load_weights(model, tuple(arrays.values())), params)
    assert_trees_all_equal(load_weights(model, str(tmp_path / "no.suffix")), params)


def keras_list(**changes):
    """The arrays of a small GRU of Keras, some of them of another shape."""
    shapes = {"arr_0": (2, 9), "arr_1": (3, 9), "arr_2": (2, 9), "arr_3": (3, 4), "arr_4": (4,)}
    return [np.zeros(shape, np.float32) for shape in (shapes | changes).values()]


STATE_DICT, _ = stored_network("torch", ("gru", 1, False, None))
WITHOUT_BIAS = {name: STATE_DICT[name] for name in STATE_DICT if "bias_hh" not in name}
NORM = {"norm.weight": np.ones(3), "norm.bias": np.zeros(3)}


GRU, WIDER = (random_params(model_of("gru"), features) for features in (2, 5))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (keras_list()[:-1], "has 5 arrays, the weights 4; missing: arr_4; .* model: none$"),
        (keras_list(more=()), "has 5 arrays, the weights 6; .*not in the model: arr_5$"),
        (
            keras_list(arr_1=(3, 12)),
            r"^arr_1 \(layer0/hz/kernel, .*\) must be of shape \(3, 9\); got \(3, 12\)$",
        ),
        (keras_list(arr_0=(9,)), r"arr_0 .*must be of shape \(9, 9\); got \(9,\)$"),
        ([], "the weights 0; missing: .* …; not in the model: none$"),
        ([array.astype(int) for array in keras_list()], "arr_0 must .* of floats; got int64$"),
        (WITHOUT_BIAS, "missing: net.encoder.bias_hh_l0; .*: none$"),
        (
            STATE_DICT | {"fc2.weight": np.zeros((2, 4)), "fc2.bias": np.zeros(2)},
            "missing: none; not in the model: fc2.weight, fc2.bias$",
        ),
        (NORM | STATE_DICT, "missing: none; not in the model: norm.weight, norm.bias$"),
        (
            stored_network("torch", ("gru", 2, True, None))[0],
            "missing: none; not in the model: .*_l0_reverse.* …$",
        ),
        (
            STATE_DICT | {"net.encoder.weight_ih_l0": np.zeros(9)},
            r"must be of shape \(9, None\); got \(9,\)$",
        ),
        ({"layer0": {"i": {"kernel": np.zeros((2, 3))}}}, "not in the model: layer0/i/kernel$"),
        (
            {**GRU, "layer0": {**GRU["layer0"], "iz": WIDER["layer0"]["iz"]}},
            r"^layer0/iz/kernel must be of shape \(2, 3\); got \(5, 3\)$",
        ),
        (np.zeros(3), "weights must be a file, a list of arrays .*; got ndarray$"),
    ],
)
def test_weights_of_another_network(weights, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_weights(model_of("gru"), weights)
    assert "\n" not in str(raised.value)


def test_files_that_hold_no_weights(tmp_path):
    model, file = model_of("gru"), tmp_path / "file"
    np.savez(tmp_path / "named.npz", kernel=np.zeros(3))
    named = (tmp_path / "named.npz").read_bytes()
    text = safetensors.numpy.save({"a": np.zeros(3, bool)})
    save_weights(model, GRU, file)
    safe = file.read_bytes()
    save_weights(model, GRU, file, layout="keras")
    npz = file.read_bytes()
    damaged = (safe[:-1], npz[:-1], npz.replace(b"NUMPY", b"MUMPY"))
    for content in (b"", b"text", *damaged, named, text):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not a safetensors file of floats, nor an npz"):
            load_weights(model, file)
    with pytest.raises(FileNotFoundError):
        load_weights(model, tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        ({"head": {}}, {}, "missing: .*layer0/h/kernel, layer0/i/bias, layer0/i/kernel;"),
        (GRU, {}, "the model has 5 arrays, the weights 12; missing"),
        (random_params(RNNModel(hidden=5)), {}, r"head/bias must be of shape \(4,\); got \(10,\)"),
        (np.zeros(3), {}, "weights must be .*; got ndarray"),
        ({}, {"layout": "onnx"}, "layout must be one of flax, keras, torch; got 'onnx'"),
    ],
)
def test_unsavable_parameters(params, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_weights(model_of("simple"), params, tmp_path / "file", **options)
    assert not any(tmp_path.iterdir())


if __name__ == "__main__":
    make_foreign()
