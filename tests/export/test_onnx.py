"""ONNX Runtime computes what the network does."""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn

from jaxrnn import RNNModel
from jaxrnn.export.onnx import to_onnx

TIME = 6
small = partial(RNNModel, hidden=5, outputs=3)
MODELS = {
    "simple": small(),
    "relu": small(activation="relu"),
    "gru": small(cell="gru", layers=2),
    "gru_relu": small(cell="gru", activation="relu"),
    "lstm": small(cell="lstm", layers=2),
    "lstm_relu": small(cell="lstm", activation="relu"),
    "simple_bidirectional": small(layers=2, bidirectional=True),
    "gru_bidirectional": small(cell="gru", bidirectional=True, pooling="max"),
    "lstm_bidirectional": small(cell="lstm", bidirectional=True, pooling="mean"),
    "mean": small(pooling="mean", layer_norm=True),
    "max": small(pooling="max", layer_norm=True),
    "norm_and_skip": small(layers=3, bidirectional=True, layer_norm=True, skip=True),
    "every_step": small(pooling="none", bidirectional=True, layer_norm=True),
    "dropout": small(dropout=0.5, input_dropout=0.5, recurrent_dropout=0.5, recurrence="flax"),
    "embedding": small(embedding=4, vocabulary=9),
    "one_hot": small(vocabulary=9),
    "one_hot_of_outputs": small(pooling="none"),
}
TOKENS = {"embedding": 9, "one_hot": 9, "one_hot_of_outputs": 3}


def params_of(model: RNNModel, *shape: int) -> Any:
    """Parameters of which none is 0, as after training."""
    example = jnp.zeros((1, *shape), jnp.float32 if len(shape) == 2 else jnp.int32)
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), example)
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape, scale=0.5).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes["params"])


def session_of(contents: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])


def outputs_of(session: onnxruntime.InferenceSession, inputs: Any, lengths: Any) -> np.ndarray:
    return session.run(["outputs"], {"inputs": inputs, "lengths": lengths})[0]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_network(name):
    model, shape = MODELS[name], (TIME,) if name in TOKENS else (TIME, 4)
    params = params_of(model, *shape)
    contents = to_onnx(model, params, shape)
    onnx.checker.check_model(contents, full_check=True)
    session = session_of(contents)
    rng, time = np.random.default_rng(1), 2 * TIME + 1
    if name in TOKENS:
        inputs = rng.integers(0, TOKENS[name], (1000, time), np.int32)
    else:
        inputs = rng.normal(size=(1000, time, 4)).astype(np.float32)
    lengths = rng.integers(0, time + 1, 1000, np.int32)
    lengths[:7] = (1, TIME, 0, 2, TIME, 3, 4)
    expected = np.asarray(jax.jit(model.apply)({"params": params}, inputs, lengths))
    for batch, steps in ((1, 1), (7, TIME), (1000, time)):
        found = outputs_of(session, inputs[:batch, :steps], lengths[:batch])
        same = expected[:batch]
        if model.pooling == "none":  # outputs after the end of a sequence may be any
            valid = np.arange(steps) < lengths[:batch, None]
            found, same = found[valid], same[:, :steps][valid]
        np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ({}, {}),
        ({"cell": "gru", "bidirectional": True}, {"linear_before_reset", "direction"}),
        ({"cell": "lstm", "activation": "relu"}, {"activations"}),
    ],
)
def test_default_attributes_are_left_out(options, attributes):
    """Some programs can't read a list of activation functions."""
    model = small(**options)
    contents = to_onnx(model, params_of(model, TIME, 4), (TIME, 4))
    (node,) = (node for node in onnx.load_from_string(contents).graph.node if len(node.input) == 5)
    assert {attribute.name for attribute in node.attribute} == {"hidden_size", *attributes}


@pytest.mark.parametrize("name", ["simple_bidirectional", "mean", "max", "norm_and_skip"])
def test_inputs_after_the_end_do_not_matter(name):
    session = session_of(to_onnx(MODELS[name], params_of(MODELS[name], TIME, 4), (TIME, 4)))
    lengths = np.array([2, TIME, 0], np.int32)
    inputs = np.random.default_rng(0).normal(size=(3, TIME, 4)).astype(np.float32)
    expected = outputs_of(session, inputs, lengths)
    inputs[np.arange(TIME) >= lengths[:, None]] = np.nan
    np.testing.assert_array_equal(outputs_of(session, inputs, lengths), expected)


def test_onnx_inputs_and_outputs():
    contents = to_onnx(small(), params_of(small(), TIME, 4), (TIME, 4))
    session = session_of(contents)
    described = [(node.name, node.type, node.shape) for node in session.get_inputs()]
    assert described == [
        ("inputs", "tensor(float)", ["batch", "time", 4]),
        ("lengths", "tensor(int32)", ["batch"]),
    ]
    assert [(node.name, node.shape) for node in session.get_outputs()] == [
        ("outputs", ["batch", 3])
    ]
    whole = onnx.load_from_string(contents)
    assert (whole.producer_name, whole.doc_string) == ("jaxrnn", "")
    assert (whole.ir_version, whole.opset_import[0].version) == (8, 17)


def test_conversion_is_reproducible_and_small():
    model = small(cell="lstm", hidden=64, layers=2, bidirectional=True, layer_norm=True)
    params = params_of(model, TIME, 4)
    contents = to_onnx(model, params, (TIME, 4))
    assert to_onnx(model, jax.tree.map(jnp.asarray, params), [TIME, 4]) == contents
    assert len(contents) <= 4 * sum(map(np.size, jax.tree.leaves(params))) + 8000


PARAMS = params_of(small(), TIME, 4)


@pytest.mark.parametrize(
    ("model", "params", "shape", "message"),
    [
        (small(cell="mgu"), {}, (TIME, 4), "no operator for cell mgu, only for simple, gru"),
        (small(block=True), {}, (TIME, 4), "ONNX export does not support residual blocks"),
        (small(cell=nn.GRUCell(5)), {}, (TIME, 4), "no operator for cell object GRUCell"),
        (small(dtype="bfloat16"), {}, (TIME, 4), "this network computes in bfloat16"),
        (nn.Dense(3), {}, (TIME, 4), "needs an RNNModel; got Dense"),
        (small(), PARAMS, (TIME, 5), r"for inputs \(6, 5\) params must be of shapes"),
        (small(), PARAMS, (TIME,), r"for inputs \(6,\) params must be of shapes"),
        (small(), {}, (TIME, 4), "params must be of shapes .*; got {}"),
        (small(), PARAMS, (2, 3, 4), "inputs must be"),
    ],
)
def test_unsupported_models(model, params, shape, message):
    with pytest.raises(ValueError, match=message):
        to_onnx(model, params, shape)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"^ONNX needs the package onnx: pip install 'jaxrnn\[on"):
        to_onnx(small(), PARAMS, (TIME, 4))
