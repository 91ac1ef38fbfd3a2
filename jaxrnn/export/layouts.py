"""Layouts: where Flax, Keras and PyTorch keep the weights of the same network."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

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
        """Return the shape of the array, from those of Flax's arrays."""
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
        """Undo ``join``: yield the names and contents of Flax's arrays."""
        array = array.T if self.transposed else array
        for names, row in zip(self.rows, array if len(self.rows) > 1 else [array], strict=True):
            yield from zip(names, np.split(row, len(names), axis=-1), strict=True)


def join(layout: Iterable[Entry], leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Build the arrays of a layout; where it has two biases for one of Flax, the second is 0."""
    left = dict(leaves)

    def take(name: str) -> np.ndarray:
        return left.pop(name) if name in left else np.zeros_like(leaves[name])

    return {entry.name: entry.join(take) for entry in layout}


def split(layout: Iterable[Entry], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Build Flax's arrays from those of a layout; two biases for one are summed."""
    leaves: dict[str, np.ndarray] = {}
    for entry in layout:
        for name, array in entry.split(arrays[entry.name]):
            leaves[name] = leaves[name] + array if name in leaves else array
    return leaves


# The arrays of a layer, and for each cell the modules of Flax whose kernels or biases they hold; a
# bar separates rows. Where a bias occurs twice, the two are summed. Flax's LSTM has its biases in
# the modules that read the state, other cells in those that read the inputs.
KERAS = ("kernel", "recurrent_kernel", "bias")
KERAS_CELLS = (
    ("i", "h", "i"),
    ("iz ir in", "hz hr hn", "iz ir in | iz ir hn"),
    ("ii if ig io", "hi hf hg ho", "hi hf hg ho"),
)
TORCH = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
TORCH_CELLS = (
    ("i", "h", "i", "i"),
    ("ir iz in", "hr hz hn", "ir iz in", "ir iz hn"),
    ("ii if ig io", "hi hf hg ho", "hi hf hg ho", "hi hf hg ho"),
)


def flax_layout(model: RNNModel, leaves: Shapes) -> list[Entry]:
    """Lay out Flax's own arrays, which every model has."""
    return [Entry(name, ((name,),)) for name in leaves]


def keras_layout(model: RNNModel, leaves: Shapes) -> list[Entry]:
    """Lay out Keras's ``model.get_weights()``, by the names that ``np.savez`` gives them.

    Raises:
      ValueError: the model has weights that Keras's layers lack.
    """
    rows: list[Rows] = [(("embedding/embedding",),)] if model.embedding else []
    rows += [part for *_, part in _parts(model, leaves, "Keras", KERAS, KERAS_CELLS)]
    rows += [(("head/kernel",),), (("head/bias",),)]
    return [Entry(f"arr_{place}", row) for place, row in enumerate(rows)]


def torch_layout(
    model: RNNModel,
    leaves: Shapes,
    rnn: str = "rnn.",
    head: str = "head.",
    embedding: str = "embedding.",
) -> list[Entry]:
    """Lay out the state dict of a PyTorch module whose layers have these prefixes.

    Raises:
      ValueError: the model has weights that PyTorch's layers lack.
    """
    table = [Entry(f"{embedding}weight", (("embedding/embedding",),))] if model.embedding else []
    for layer, backward, part, rows in _parts(model, leaves, "PyTorch", TORCH, TORCH_CELLS):
        name = f"{rnn}{part}_l{layer}" + "_reverse" * backward
        table.append(Entry(name, rows, transposed=True))
    head_kernel = Entry(f"{head}weight", (("head/kernel",),), transposed=True)
    return [*table, head_kernel, Entry(f"{head}bias", (("head/bias",),))]


def torch_prefixes(names: Collection[str]) -> dict[str, str] | None:
    """Find the prefixes of a state dict's layers, for ``torch_layout``; None if none is recurrent.

    >>> torch_prefixes(["net.encoder.weight_ih_l0", "net.fc.weight", "net.fc.bias"])
    {'rnn': 'net.encoder.', 'head': 'net.fc.'}
    """
    prefixes: dict[str, str] = {}
    others: dict[str, str] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)(?:weight|bias)_[ih]h_l\d+(?:_reverse)?", name):
            prefixes.setdefault("rnn", match[1])
        elif match := re.fullmatch(r"(.+)weight", name):
            prefix = match[1]  # with a bias it is the head, without one the embedding
            others.setdefault("head" if f"{prefix}bias" in names else "embedding", prefix)
    return prefixes | others if prefixes else None


def _parts(
    model: RNNModel,
    leaves: Shapes,
    library: str,
    parts: Sequence[str],
    cells: Iterable[Sequence[str]],
) -> Iterator[tuple[int, int, str, Rows]]:
    """Yield layer, direction, name and contents of the arrays of a library's recurrent layers."""
    expected = {name for name in leaves if name.startswith("layer0/")}
    for cell in cells:
        rows = [_rows("layer0", *part) for part in zip(parts, cell, strict=True)]
        if expected == {name for part in rows for row in part for name in row}:
            break
    else:
        name = model.cell if isinstance(model.cell, str) else type(model.cell).__name__
        raise ValueError(f"{library} has no counterpart of cell {name}; use the flax layout")
    if model.layer_norm:
        raise ValueError(f"{library} has no counterpart of layer_norm; use the flax layout")
    for layer, backward in itertools.product(range(model.layers), range(1 + model.bidirectional)):
        prefix = f"layer{layer}" + "_backward" * backward
        for part, modules in zip(parts, cell, strict=True):
            yield layer, backward, part, _rows(prefix, part, modules)


def _rows(prefix: str, part: str, modules: str) -> Rows:
    """Return the names of the Flax arrays that make up an array of a layer."""
    kind = "bias" if part.startswith("bias") else "kernel"
    return tuple(
        tuple(f"{prefix}/{module}/{kind}" for module in row.split()) for row in modules.split("|")
    )
