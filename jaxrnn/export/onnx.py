"""ONNX: a network as a file of ONNX's own recurrent operators."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrnn.nn.model import RNNModel
from jaxrnn.version import __version__

# The operator of each cell, the Flax names of its gates in the operator's order, and its activation
# functions in a network with relu; for tanh, the operator's defaults apply.
_OPERATORS: Mapping[str, tuple[str, Sequence[str], list[str]]] = {
    "simple": ("RNN", ("",), ["Relu"]),
    "gru": ("GRU", "zrn", ["Sigmoid", "Relu"]),
    "lstm": ("LSTM", "iofg", ["Sigmoid", "Relu", "Relu"]),
}
# The first opset with LayerNormalization and the IR version of its time, so that older programs
# can read the file: ONNX Runtime from 1.12 on.
_OPSET, _IR_VERSION = 17, 8


def to_onnx(model: nn.Module, params: chex.ArrayTree, input_shape: Sequence[int]) -> bytes:
    """Convert a network to an ONNX model, which runs without JAX or Python.

    Its inputs are ``inputs``, (batch, time, features) float32 or (batch, time) int32 tokens, and
    ``lengths``, (batch,) int32; its output is ``outputs``, (batch, [time,] classes). Batch and time
    may be of any size. The outputs are those of ``model.apply({"params": params}, inputs,
    lengths)`` up to the end of each sequence. Tokens and lengths must be in range, and pixels of 0
    to 255 divided by 255, as :func:`jaxrnn.predict` does.

    Args:
      model: an :class:`jaxrnn.RNNModel` of cell ``simple``, ``gru`` or ``lstm``.
      params: its parameters.
      input_shape: shape of one example: (time, features), or (time,) for tokens.

    Returns:
      The contents of an ``.onnx`` file.

    Raises:
      ImportError: the package onnx is not installed.
      ValueError: ONNX has no operators for the model, or the arguments don't fit each other.

    References:
      The operators RNN, GRU and LSTM in https://onnx.ai/onnx/operators.

    >>> import onnxruntime
    >>> model = RNNModel(cell="gru")
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    >>> session = onnxruntime.InferenceSession(to_onnx(model, params, (28, 28)))
    >>> inputs = {"inputs": np.zeros((2, 28, 28), np.float32), "lengths": np.int32([28, 5])}
    >>> session.run(["outputs"], inputs)[0].shape
    (2, 10)
    """
    if not isinstance(model, RNNModel):
        raise ValueError(f"ONNX needs an RNNModel; got {type(model).__name__}")
    if model.cell not in _OPERATORS:
        cell = model.cell if isinstance(model.cell, str) else f"object {type(model.cell).__name__}"
        raise ValueError(f"ONNX has no operator for cell {cell}, only for {', '.join(_OPERATORS)}")
    if model.in_blocks:
        raise ValueError("ONNX export does not support residual blocks (block, or cell lru)")
    if model.dtype != "float32":
        raise ValueError(f"ONNX computes in float32; this network computes in {model.dtype}")
    tokens = len(input_shape) == 1
    example = jax.ShapeDtypeStruct((1, *input_shape), jnp.int32 if tokens else jnp.float32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), example)
    expected, got = (jax.tree.map(jnp.shape, tree) for tree in (variables["params"], params))
    if expected != got:
        raise ValueError(
            f"for inputs {tuple(input_shape)} params must be of shapes {expected}; got {got}"
        )
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ImportError("ONNX needs the package onnx: pip install 'jaxrnn[onnx]'") from error

    graph = _Graph()
    _add_network(graph, model, params, tokens)
    describe = helper.make_tensor_value_info
    kind = TensorProto.INT32 if tokens else TensorProto.FLOAT
    time = ["time"] * (model.pooling == "none")
    read = describe("inputs", kind, ["batch", "time", *input_shape[1:]])
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(op, *names, **attributes) for op, names, attributes in graph.nodes],
            "jaxrnn",
            [read, describe("lengths", TensorProto.INT32, ["batch"])],
            [describe("outputs", TensorProto.FLOAT, ["batch", *time, model.outputs])],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="jaxrnn",
        producer_version=__version__,
    ).SerializeToString()


class _Graph:
    """The nodes of a graph in the order of computation, and its constants."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, tuple[list[str], list[str]], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node that reads constants and outputs of other nodes; return its output's name."""
        output = output or f"{op}{len(self.nodes)}"
        names = [v if isinstance(v, str) else f"{output}.{i}" for i, v in enumerate(inputs)]
        given = zip(names, inputs, strict=True)
        self.constants |= {n: np.asarray(value) for n, value in given if n is not value}
        self.nodes.append((op, (names, [output]), attributes))
        return output


def _add_network(graph: _Graph, model: RNNModel, params: Any, tokens: bool) -> None:
    """Add the nodes of a network. States are (time, batch, units), as in the operators."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    states = graph.add("Transpose", "inputs", perm=[1, 0] if tokens else [1, 0, 2])
    if "embedding" in params:
        states = graph.add("Gather", params["embedding"]["embedding"], states)
    elif tokens:
        size = model.vocabulary or model.outputs
        states = graph.add("OneHot", states, np.int32(size), np.array([0, 1], np.float32))
    for layer in range(model.layers):
        below = states
        states = _add_layer(graph, model, params, f"layer{layer}", states)
        if model.layer_norm:
            norm = params[f"norm{layer}"]
            weights = (norm["scale"], norm["bias"])
            states = graph.add("LayerNormalization", states, *weights, epsilon=1e-6)  # as in Flax
        if model.skip and layer:
            states = graph.add("Add", states, below)
    if model.pooling == "none":
        read = graph.add("Transpose", states, perm=[1, 0, 2])
    else:
        read = _add_pooling(graph, model, states)
    product = graph.add("MatMul", read, params["head"]["kernel"])
    graph.add("Add", product, params["head"]["bias"], output="outputs")


def _add_layer(graph: _Graph, model: RNNModel, params: Any, name: str, states: str) -> str:
    """Add a recurrent layer; return its states, with directions concatenated."""
    op, gates, activations = _OPERATORS[str(model.cell)]
    names = [name, f"{name}_backward"][: 1 + model.bidirectional]
    weights = zip(*(_weights(params[direction], gates) for direction in names), strict=True)
    # Default activations are omitted, since some programs (OpenCV) can't read the attribute.
    attributes: dict[str, Any] = {"hidden_size": model.hidden}
    if op == "GRU":
        attributes["linear_before_reset"] = 1
    if model.bidirectional:
        attributes["direction"] = "bidirectional"
    if model.activation == "relu":
        attributes["activations"] = activations * len(names)
    states = graph.add(op, states, *map(np.stack, weights), "lengths", **attributes)
    states = graph.add("Transpose", states, perm=[0, 2, 1, 3])  # (time, batch, directions, hidden)
    return graph.add("Reshape", states, [0, 0, model.hidden * len(names)])


def _weights(params: Any, gates: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights W, R and B of an operator, for one direction."""
    kernels, biases = [], []
    for side in "ih":
        modules = [params[side + gate] for gate in gates]
        kernels.append(np.concatenate([module["kernel"].T for module in modules]))
        zeros = np.zeros(modules[0]["kernel"].shape[1], np.float32)  # Flax has a bias in i or h
        biases += [module.get("bias", zeros) for module in modules]
    return kernels[0], kernels[1], np.concatenate(biases)


def _add_pooling(graph: _Graph, model: RNNModel, states: str) -> str:
    """Reduce states over their valid time steps, as :func:`jaxrnn.nn.pooling.pool`."""
    time = graph.add("Squeeze", graph.add("Shape", states, end=1))
    steps = graph.add("Unsqueeze", graph.add("Range", 0, time, 1), [1, 2])  # (time, 1, 1)
    lengths = graph.add("CastLike", graph.add("Unsqueeze", "lengths", [1]), steps)  # (batch, 1)
    if model.pooling == "last":
        last = graph.add("Sub", lengths, 1)
        if model.bidirectional:  # the backward units end at step 0, unless the sequence is empty
            latest = np.repeat([np.iinfo(np.int64).max, 0], model.hidden)
            last = graph.add("Min", last, latest)
        read = graph.add("Equal", steps, last)
    else:
        read = graph.add("Less", steps, lengths)
    if model.pooling == "max":
        states = graph.add("Where", read, states, np.float32(-np.inf))
        largest = graph.add("ReduceMax", states, axes=[0], keepdims=0)
        return graph.add("Where", graph.add("Greater", lengths, 0), largest, np.float32(0))
    states = graph.add("Where", read, states, np.float32(0))
    total = graph.add("ReduceSum", states, [0], keepdims=0)
    if model.pooling == "last":  # all other terms are 0
        return total
    count = graph.add("CastLike", graph.add("Max", lengths, 1), total)
    return graph.add("Div", total, count)
