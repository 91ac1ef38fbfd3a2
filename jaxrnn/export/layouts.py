"""Layouts: where Flax, Keras and PyTorch keep the weights of the same network."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from jaxrnn.nn.model import RNNModel

Shapes = Mapping[str, tuple[int, ...]]
Rows = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array of a layout, concatenated from Flax's arrays.

    Attributes:
      name: the name of the array.
      rows: the names of Flax's arrays along the last axis; several rows are stacked.
      transposed: whether the array is stored transposed.
    """

    name: str
    rows: Rows
    transposed: bool = False

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """The shape of the array, from those of Flax's arrays."""
        first, *others = self.rows
        width = sum(shapes[name][-1] for name in first)
        shape = (len(self.rows), width) if others else (*shapes[first[0]][:-1], width)
        return shape[::-1] if self.transposed else shape

    def join(self, take: Callable[[str], np.ndarray]) -> np.ndarray:
        """Build the array from Flax's arrays, taken by name."""
        rows = [np.concatenate([take(name) for name in row], axis=-1) for row in self.rows]
        array = np.stack(rows) if len(rows) > 1 else rows[0]
        return np.ascontiguousarray(array.T if self.transposed else array)

    def split(self, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Undo ``join``: the names and contents of Flax's arrays."""
        array = array.T if self.transposed else array
        for names, row in zip(self.rows, array if len(self.rows) > 1 else [array], strict=True):
            yield from zip(names, np.split(row, len(names), axis=-1), strict=True)


def join(layout: Iterable[Entry], leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a layout, from Flax's; where it has two biases for one, the second is 0."""
    left = dict(leaves)

    def take(name: str) -> np.ndarray:
        return left.pop(name) if name in left else np.zeros_like(leaves[name])

    return {entry.name: entry.join(take) for entry in layout}


def split(layout: Iterable[Entry], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flax's arrays, from those of a layout; two biases for one are summed."""
    leaves: dict[str, np.ndarray] = {}
    for entry in layout:
        for name, array in entry.split(arrays[entry.name]):
            leaves[name] = leaves[name] + array if name in leaves else array
    return leaves


# The arrays of a layer, and the modules of Flax's cell whose kernels or biases they hold; a bar
# separates rows. Where a bias occurs twice, the two are summed. Flax's LSTM has its biases in the
# modules that read the state, other cells in those that read the inputs.
KERAS_CELLS = (
    {"kernel": "i", "recurrent_kernel": "h", "bias": "i"},
    {"kernel": "iz ir in", "recurrent_kernel": "hz hr hn", "bias": "iz ir in | iz ir hn"},
    {"kernel": "ii if ig io", "recurrent_kernel": "hi hf hg ho", "bias": "hi hf hg ho"},
)
TORCH_CELLS = (
    {"weight_ih": "i", "weight_hh": "h", "bias_ih": "i", "bias_hh": "i"},
    {
        "weight_ih": "ir iz in",
        "weight_hh": "hr hz hn",
        "bias_ih": "ir iz in",
        "bias_hh": "ir iz hn",
    },
    {
        "weight_ih": "ii if ig io",
        "weight_hh": "hi hf hg ho",
        "bias_ih": "hi hf hg ho",
        "bias_hh": "hi hf hg ho",
    },
)


def flax_layout(model: RNNModel, leaves: Shapes) -> list[Entry]:
    """Flax's own arrays, which every model has."""
    return [Entry(name, ((name,),)) for name in leaves]


def keras_layout(model: RNNModel, leaves: Shapes) -> list[Entry]:
    """The arrays of Keras's ``model.get_weights()``, by the names that ``np.savez`` gives them.

    Raises:
      ValueError: the model has weights that Keras's layers lack.
    """
    cell = _cell(model, leaves, KERAS_CELLS, "Keras")
    rows: list[Rows] = [(("embedding/embedding",),)] if model.embedding else []
    for layer, backward in _layers(model):
        rows += [_rows(layer, backward, *part) for part in cell.items()]
    rows += [(("head/kernel",),), (("head/bias",),)]
    return [Entry(f"arr_{place}", row) for place, row in enumerate(rows)]


def torch_layout(
    model: RNNModel,
    leaves: Shapes,
    rnn: str = "rnn.",
    head: str = "head.",
    embedding: str = "embedding.",
) -> list[Entry]:
    """The state dict of a PyTorch module whose layers have these prefixes.

    Raises:
      ValueError: the model has weights that PyTorch's layers lack.
    """
    cell = _cell(model, leaves, TORCH_CELLS, "PyTorch")
    table = [Entry(f"{embedding}weight", (("embedding/embedding",),))] if model.embedding else []
    for layer, backward in _layers(model):
        for part, modules in cell.items():
            name = f"{rnn}{part}_l{layer}" + "_reverse" * backward
            table.append(Entry(name, _rows(layer, backward, part, modules), transposed=True))
    head_kernel = Entry(f"{head}weight", (("head/kernel",),), transposed=True)
    return [*table, head_kernel, Entry(f"{head}bias", (("head/bias",),))]


def torch_prefixes(names: Iterable[str]) -> dict[str, str] | None:
    """The prefixes of a state dict's layers, for ``torch_layout``; None if none is recurrent.

    >>> torch_prefixes(["net.encoder.weight_ih_l0", "net.fc.weight", "net.fc.bias"])
    {'rnn': 'net.encoder.', 'head': 'net.fc.'}
    """
    names = list(names)
    recurrent = {
        name: match[1]
        for name in names
        if (match := re.fullmatch(r"(.*?)(?:weight|bias)_[ih]h_l\d+(?:_reverse)?", name))
    }
    if not recurrent:
        return None
    prefixes = {"rnn": next(iter(recurrent.values()))}
    for name in names:  # with a bias it is the head, without one the embedding
        prefix, _, leaf = name.rpartition("weight")
        if not prefix or leaf or name in recurrent:
            continue
        prefixes.setdefault("head" if f"{prefix}bias" in names else "embedding", prefix)
    return prefixes


def _layers(model: RNNModel) -> Iterator[tuple[int, int]]:
    """Index and direction of each layer, in the order of Keras and PyTorch."""
    return itertools.product(range(model.layers), range(1 + model.bidirectional))


def _rows(layer: int, backward: int, part: str, modules: str) -> Rows:
    """The names of the Flax arrays that make up an array of a layer."""
    prefix = f"layer{layer}" + "_backward" * backward
    kind = "bias" if part.startswith("bias") else "kernel"
    return tuple(
        tuple(f"{prefix}/{module}/{kind}" for module in row.split()) for row in modules.split("|")
    )


def _cell(
    model: RNNModel, leaves: Shapes, cells: Iterable[Mapping[str, str]], library: str
) -> Mapping[str, str]:
    """The arrays of the library's layer that corresponds to the model's cell."""
    expected = {name for name in leaves if name.startswith("layer0/")}
    for cell in cells:
        rows = itertools.chain.from_iterable(_rows(0, 0, *part) for part in cell.items())
        if expected == set(itertools.chain.from_iterable(rows)):
            break
    else:
        name = model.cell if isinstance(model.cell, str) else type(model.cell).__name__
        raise ValueError(f"{library} has no counterpart of cell {name}; use the flax layout")
    if model.layer_norm:
        raise ValueError(
            f"{library}'s layers have no counterpart of layer_norm; use the flax layout"
        )
    return cell
