"""drawing_page: a web page on which to draw a digit and watch a network read it."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxrnn.export.layouts import join, torch_layout
from jaxrnn.nn.model import RNNModel

from .pictures import SIDE

_TEMPLATE = Path(__file__).with_name("digit.html")
_PLACE = '"DATA"'  # the placeholder in the template

# The cells that the web page can compute, and what it calls their networks.
_CELLS = {"simple": "An Elman network", "gru": "A GRU network", "lstm": "An LSTM network"}


def drawing_page(
    model: RNNModel,
    params: Any,
    input_shape: tuple[int, ...],
    class_names: Sequence[str],
    order: np.ndarray | None = None,
) -> str:
    """Make a web page on which to draw a digit and watch a network classify it as it reads.

    The web page is one HTML file that holds the weights and works offline. It fits the drawing into
    28 × 28 pixels as :func:`fit_digit` does, and shows the probability of each class after every
    time step.

    Args:
      model: a unidirectional network of ``simple``, ``gru`` or ``lstm`` cells that classifies by
        its last state, without ``layer_norm``, ``skip``, ``embedding`` or ``block``.
      params: its parameters.
      input_shape: (time, features) of an image, 784 numbers in all.
      class_names: the name of each class.
      order: (784,) permutation of the pixels, applied before they are cut into time steps; None for
        reading order.

    Raises:
      ValueError: the web page can't compute the network.

    >>> model = RNNModel(hidden=4)
    >>> params = model.init(jax.random.key(0), np.zeros((1, 28, 28)))["params"]
    >>> drawing_page(model, params, (28, 28), "0123456789")[:15]
    '<!doctype html>'
    """
    _check(model)
    leaves: Any = flatten_dict(jax.device_get(params), sep="/")
    # Transposed back: the web page multiplies by (inputs, outputs) kernels.
    weights = join(torch_layout(model, leaves), leaves).values()
    joined = np.concatenate([np.ravel(array.T) for array in weights]).astype("<f4")
    time, features = input_shape
    unit = {SIDE: "row", 1: "pixel"}.get(features, "step")
    data = {
        "cell": model.cell,
        "activation": model.activation,
        "units": model.hidden,
        "layers": model.layers,
        "time": time,
        "features": features,
        "names": list(map(str, class_names)),
        "order": None if order is None else np.asarray(order).tolist(),
        "unit": unit,
        "history": f"Its answer after each {unit}",
        "about": _about(model, params, unit, order is not None),
        "weights": base64.b64encode(joined.tobytes()).decode(),
    }
    # In JSON "<" occurs only in strings; escaped, none of them can end the script.
    text = json.dumps(data).replace("<", r"\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, text)


def _check(model: RNNModel) -> None:
    """Raise ``ValueError`` if the web page can't compute the network."""
    cell = model.cell if isinstance(model.cell, str) else type(model.cell).__name__
    refused = {
        "a bidirectional network": model.bidirectional,
        f"pooling {model.pooling!r}": model.pooling != "last",
        "block": model.block,
        "layer_norm": model.layer_norm,
        "skip": model.skip,
        "an embedding": model.embedding is not None,
        f"dtype {model.dtype}": model.dtype != "float32",
        f"cell {cell}, only {', '.join(_CELLS)}": cell not in _CELLS,
    }
    for what, present in refused.items():
        if present:
            raise ValueError(
                "the web page needs a unidirectional network that classifies by its last state; "
                f"it can't compute {what}"
            )


def _about(model: RNNModel, params: Any, unit: str, shuffled: bool) -> str:
    name, count = _CELLS[str(model.cell)], sum(leaf.size for leaf in jax.tree.leaves(params))
    layers = f"{model.layers} layers of " if model.layers > 1 else ""
    way = {"row": "row by row, from top to bottom", "pixel": "pixel by pixel, in reading order"}
    how = "in a fixed, shuffled order" if shuffled else way.get(unit, "step by step")
    return (
        f"{name} of {layers}{model.hidden} units ({count:,} parameters) reads "
        f"your drawing {how}. The bars show how likely it finds each answer after each {unit}."
    )
