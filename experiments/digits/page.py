"""drawing_page: a web page on which to draw a digit and watch a network read it."""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.digits.pictures import SIDE
from jaxrnn.nn.cells import ACTIVATIONS, build_cell
from jaxrnn.nn.model import RNNModel

_TEMPLATE = Path(__file__).with_name("digit.html")
_PLACE = '"DATA"'  # the placeholder in the template

# For each cell: its name, what to call the network, and the gates of its kernels.
_CELLS = {
    nn.SimpleCell: ("simple", "An Elman network", ("",)),
    nn.GRUCell: ("gru", "A GRU network", ("r", "z", "n")),
    nn.OptimizedLSTMCell: ("lstm", "An LSTM network", ("i", "f", "g", "o")),
}


def drawing_page(
    model: RNNModel,
    params: Any,
    input_shape: tuple[int, ...],
    class_names: Sequence[str],
    order: np.ndarray | None = None,
) -> str:
    """Make a web page on which to draw a digit and watch a network classify it as it reads.

    The page is one HTML file that holds the weights and works offline. It fits the drawing into
    28 × 28 pixels as :func:`fit_digit` does, and shows the probability of each class after every
    time step.

    Args:
      model: a forward network of ``simple``, ``gru`` or ``lstm`` cells that classifies by its last
        state, without ``layer_norm``, ``skip`` or ``embedding``.
      params: its parameters.
      input_shape: (time, features) of an image, 784 numbers in all.
      class_names: the name of each class.
      order: (784,) permutation of the pixels, applied before they are cut into time steps; None for
        reading order.

    Returns:
      The HTML.

    Raises:
      ValueError: the page can't compute the network, or the arguments are inconsistent.

    >>> model = RNNModel(hidden=4)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    >>> drawing_page(model, params, (28, 28), "0123456789")[:15]
    '<!doctype html>'
    """
    if len(input_shape) != 2 or np.prod(input_shape) != SIDE**2:
        raise ValueError(
            f"the page needs a network that reads images of 28 × 28 pixels, cut into (time, "
            f"features); got {tuple(input_shape)}"
        )
    cell = _cell(model)
    _check(model, params, input_shape, class_names, order)
    name, _, gates = _CELLS[type(cell)]
    weights = [
        *(
            array
            for layer in range(model.layers)
            for array in _layer(params[f"layer{layer}"], gates)
        ),
        *(params["head"][part] for part in ("kernel", "bias")),
    ]
    joined = np.concatenate([np.ravel(array) for array in weights]).astype("<f4")
    time, features = input_shape
    unit = {SIDE: "row", 1: "pixel"}.get(features, "step")
    data = {
        "cell": name,
        "activation": "relu" if cell.activation_fn is nn.relu else "tanh",
        "units": cell.features,
        "layers": model.layers,
        "time": time,
        "features": features,
        "names": list(map(str, class_names)),
        "order": None if order is None else np.asarray(order).tolist(),
        "unit": unit,
        "history": f"Its answer after each {unit}",
        "about": _about(model, params, cell, unit, order is not None),
        "weights": base64.b64encode(joined.tobytes()).decode(),
    }
    # In JSON "<" occurs only in strings; escaped, none of them can end the script.
    text = json.dumps(data).replace("<", r"\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, text)


def _cell(model: RNNModel) -> Any:
    """The cell of every layer; raises if the page can't compute the network."""
    refused = {
        "a network that reads in both directions": model.bidirectional,
        f"pooling {model.pooling!r}": model.pooling != "last",
        "layer_norm": model.layer_norm,
        "skip": model.skip,
        "an embedding": model.embedding is not None,
        f"dtype {model.dtype}": model.dtype != "float32",
    }
    for what, present in refused.items():
        if present:
            raise ValueError(
                "the page needs a forward network that classifies from its last state; it can't "
                f"compute {what}"
            )
    cell: Any = model.cell
    if isinstance(cell, str):
        options = model.initializers, model.recurrent_gain, model.activation
        cell = build_cell(cell, 1, model.hidden, *options)
    kind = type(cell)
    if kind not in _CELLS:
        raise ValueError(f"the page supports the cells simple, gru and lstm; got {kind.__name__}")
    usual = kind(cell.features)
    for option in ("gate_fn", "carry_init", "residual", "dtype"):
        if getattr(cell, option, None) != getattr(usual, option, None):
            raise ValueError(f"the page supports {kind.__name__} only with the default {option}")
    if cell.activation_fn not in ACTIVATIONS.values():
        raise ValueError("the page supports the activations tanh and relu; got another function")
    return cell


def _check(
    model: RNNModel,
    params: Any,
    input_shape: tuple[int, ...],
    class_names: Sequence[str],
    order: np.ndarray | None,
) -> None:
    example = jnp.zeros((1, *input_shape))
    expected = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, expected):
        raise ValueError(
            f"params must be those of one network that reads {tuple(input_shape)} inputs; "
            "their names or shapes differ"
        )
    if len(class_names) != model.outputs:
        raise ValueError(f"expected {model.outputs} class_names; got {len(class_names)}")
    if order is not None and sorted(np.ravel(order)) != list(range(SIDE**2)):
        raise ValueError(f"order must be a permutation of 0 … {SIDE**2 - 1}")


def _layer(params: Any, gates: Sequence[str]) -> Iterator[np.ndarray]:
    """Input and recurrent kernels and biases, gates concatenated; a missing bias is 0."""
    for part in "ih":
        modules = [params[part + gate] for gate in gates]
        biases = [module.get("bias", np.zeros(module["kernel"].shape[1])) for module in modules]
        yield np.concatenate([module["kernel"] for module in modules], axis=1)
        yield np.concatenate(biases)


def _about(model: RNNModel, params: Any, cell: Any, unit: str, shuffled: bool) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    layers = f"{model.layers} layers of " if model.layers > 1 else ""
    way = {"row": "row by row, from top to bottom", "pixel": "pixel by pixel, in reading order"}
    how = "in a fixed, shuffled order" if shuffled else way.get(unit, "step by step")
    return (
        f"{_CELLS[type(cell)][1]} of {layers}{cell.features} units ({count:,} parameters) reads "
        f"your drawing {how}. The bars show how likely it finds each answer after each {unit}."
    )
