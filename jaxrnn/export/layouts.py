"""Layouts: the arrays in which Flax, Keras and PyTorch store the weights of a network."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrnn.nn.model import RNNModel

Shapes = Mapping[str, tuple[int, ...]]


class Entry(NamedTuple):
    """An array of a layout: the Flax arrays ``leaves``, concatenated along the last axis.

    It may be ``transposed``; concatenated biases may be stored as the ``rows`` of a matrix.
    """

    name: str
    leaves: Sequence[str]
    transposed: bool = False
    rows: int = 1

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Return the shape of the array, from those of Flax's arrays."""
        width = sum(shapes[name][-1] for name in self.leaves)
        if self.rows > 1:
            return self.rows, width // self.rows
        shape = (*shapes[self.leaves[0]][:-1], width)
        return shape[::-1] if self.transposed else shape


def join(layout: Iterable[Entry], leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Build the arrays of a layout; where it has two biases for one of Flax, the second is 0."""
    left, arrays = dict(leaves), {}
    for entry in layout:
        parts = [left.pop(name, np.zeros_like(leaves[name])) for name in entry.leaves]
        array = np.concatenate(parts, axis=-1)
        array = array.reshape(entry.rows, -1) if entry.rows > 1 else array
        arrays[entry.name] = np.ascontiguousarray(array.T if entry.transposed else array)
    return arrays


def split(layout: Iterable[Entry], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Build Flax's arrays from those of a layout; two biases for one are summed."""
    leaves: dict[str, np.ndarray] = {}
    for entry in layout:
        array = arrays[entry.name].T if entry.transposed else arrays[entry.name]
        array = array.ravel() if entry.rows > 1 else array
        parts = np.split(array, len(entry.leaves), axis=-1)
        for name, leaf in zip(entry.leaves, parts, strict=True):
            leaves[name] = leaves[name] + leaf if name in leaves else leaf
    return leaves


# The names of a layer's arrays and, by the modules of Flax's cell, the modules whose kernels or
# biases each array holds; a bar separates rows. A bias that occurs twice is summed. Flax's LSTM has
# its biases in the modules that read the state, other cells in those that read the inputs.
KERAS = ("kernel", "recurrent_kernel", "bias")
KERAS_CELLS = {
    "h i": ("i", "h", "i"),
    "hn hr hz in ir iz": ("iz ir in", "hz hr hn", "iz ir in | iz ir hn"),
    "hf hg hi ho if ig ii io": ("ii if ig io", "hi hf hg ho", "hi hf hg ho"),
}
TORCH = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
TORCH_CELLS = {
    "h i": ("i", "h", "i", "i"),
    "hn hr hz in ir iz": ("ir iz in", "hr hz hn", "ir iz in", "ir iz hn"),
    "hf hg hi ho if ig ii io": ("ii if ig io", "hi hf hg ho", "hi hf hg ho", "hi hf hg ho"),
}


def flax_layout(model: RNNModel, leaves: Shapes) -> list[Entry]:
    """Return the layout of Flax's own arrays, for any model."""
    return [Entry(name, [name]) for name in leaves]


def keras_layout(model: RNNModel, leaves: Shapes) -> list[Entry]:
    """Return the layout of Keras's ``model.get_weights()``, with the names of ``np.savez``."""
    table = [Entry("", ["embedding/embedding"])] if model.embedding else []
    table += [entry for *_, entry in _parts(model, leaves, "Keras", KERAS, KERAS_CELLS)]
    table += [Entry("", ["head/kernel"]), Entry("", ["head/bias"])]
    return [entry._replace(name=f"arr_{index}") for index, entry in enumerate(table)]


def torch_layout(
    model: RNNModel,
    leaves: Shapes,
    rnn: str = "rnn.",
    head: str = "head.",
    embedding: str = "embedding.",
) -> list[Entry]:
    """Return the layout of a PyTorch state dict with these prefixes of its layers."""
    table = [Entry(f"{embedding}weight", ["embedding/embedding"])] if model.embedding else []
    for layer, backward, entry in _parts(model, leaves, "PyTorch", TORCH, TORCH_CELLS):
        name = f"{rnn}{entry.name}_l{layer}" + "_reverse" * backward
        table.append(entry._replace(name=name, transposed=True))
    table.append(Entry(f"{head}weight", ["head/kernel"], transposed=True))
    return [*table, Entry(f"{head}bias", ["head/bias"])]


def torch_prefixes(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Find the prefixes for ``torch_layout`` in a state dict; empty if no layer is recurrent.

    Of the other layers with a matrix as weight (normalization layers have a vector), the first one
    with a bias is taken as the head, and the first one without a bias as the embedding.

    >>> kernel, bias = np.zeros((3, 2)), np.zeros(3)
    >>> torch_prefixes({"encoder.weight_ih_l0": kernel, "fc.weight": kernel, "fc.bias": bias})
    {'rnn': 'encoder.', 'head': 'fc.'}
    """
    rnn: dict[str, str] = {}
    others: dict[str, str] = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"(.*?)(?:weight|bias)_[ih]h_l\d+(?:_reverse)?", name):
            rnn.setdefault("rnn", match[1])
        elif name.endswith(".weight") and array.ndim == 2:
            prefix = name.removesuffix("weight")
            others.setdefault("head" if f"{prefix}bias" in arrays else "embedding", prefix)
    return rnn and rnn | others


def _parts(
    model: RNNModel,
    leaves: Shapes,
    library: str,
    parts: Sequence[str],
    cells: Mapping[str, Sequence[str]],
) -> Iterator[tuple[int, int, Entry]]:
    """Yield layer, direction and contents of the arrays of a library's recurrent layers.

    Raises:
      ValueError: the model has weights that the library's layers lack.
    """
    modules = {name.split("/")[1] for name in leaves if name.startswith("layer0/")}
    cell = cells.get(" ".join(sorted(modules)))
    if cell is None or model.in_blocks or model.layer_norm:
        name = model.cell if isinstance(model.cell, str) else type(model.cell).__name__
        others = "block" if model.in_blocks else "layer_norm"
        lacking = others if cell else f"cell {name}"
        raise ValueError(f"{library} has no counterpart of {lacking}; use the flax layout")
    for layer, backward in itertools.product(range(model.layers), range(1 + model.bidirectional)):
        prefix = f"layer{layer}" + "_backward" * backward
        for part, contents in zip(parts, cell, strict=True):
            kind = "bias" if part.startswith("bias") else "kernel"
            names = [f"{prefix}/{module}/{kind}" for module in contents.replace("|", "").split()]
            yield layer, backward, Entry(part, names, rows=1 + contents.count("|"))
