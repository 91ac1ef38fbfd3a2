"""Load and save weights in the layouts of Keras, PyTorch and Flax."""

import io
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrnn.export import layouts
from jaxrnn.export.layouts import Entry, Shapes
from jaxrnn.files import write_atomically
from jaxrnn.nn.model import RNNModel

LAYOUTS: Mapping[str, Callable[[RNNModel, Shapes], list[Entry]]] = {
    "flax": layouts.flax_layout,
    "keras": layouts.keras_layout,
    "torch": layouts.torch_layout,
}
# Placeholder for the number of input features in shapes: a large prime, unlike other sizes.
FEATURES = 99_991
CHECKPOINTS = ("params", "state_dict", "model_state_dict")


def load_weights(
    model: RNNModel, weights: str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any]
) -> dict[str, Any]:
    """Read the parameters of a network trained by Keras, PyTorch or jaxrnn.

    Keras: ``Embedding`` if the model has ``embedding``, ``SimpleRNN``, ``GRU`` (with the default
    ``reset_after=True``) or ``LSTM`` layers, in ``Bidirectional`` or not, and ``Dense``. PyTorch:
    ``nn.Embedding``, ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM``, and ``nn.Linear``, under any names. All
    layers must have biases; two are summed where Flax has one. Arrays of equal shape in the wrong
    order go unnoticed.

    Args:
      model: the network that the weights are for.
      weights: a ``.safetensors`` file of a PyTorch state dict or from :func:`save_weights`, a
        ``.npz`` file from ``np.savez(file, *model.get_weights())``, the list that Keras's
        ``model.get_weights()`` returns, a PyTorch state dict, Flax parameters, or a checkpoint that
        holds these as ``params``, ``state_dict`` or ``model_state_dict``.

    Returns:
      The parameters of ``model``, float32; the number of input features is that of the weights.
      To train on: ``state.replace(params=params, opt_state=state.tx.init(params))``.

    Raises:
      ValueError: the weights are of another network, or the file is of another kind.
      OSError: the file can't be read.
    """
    arrays, shapes = _arrays_of(weights), _shapes(model)
    if "arr_0" in arrays:
        layout = layouts.keras_layout(model, shapes)
    elif prefixes := layouts.torch_prefixes(arrays):
        layout = layouts.torch_layout(model, shapes, **prefixes)
    else:
        layout = layouts.flax_layout(model, shapes)
    leaves = layouts.split(layout, _checked(layout, arrays, shapes))
    return unflatten_dict({name: jnp.asarray(leaf) for name, leaf in leaves.items()}, sep="/")


def save_weights(
    model: Any,
    params: Any,
    file: str | os.PathLike[str],
    *,
    layout: Literal["flax", "keras", "torch"] = "flax",
) -> None:
    """Write parameters to a file that :func:`load_weights` and other libraries read.

    Args:
      model: the network; any module for the layout ``flax``.
      params: its parameters.
      file: the path; an existing file is replaced.
      layout: ``flax``, a safetensors file; ``torch``, a safetensors file of the state dict of a
        module with ``embedding``, ``rnn`` and ``head``, where the second bias is 0 if Flax has one;
        ``keras``, an npz file, whose arrays are in the order of ``set_weights``.

    Raises:
      ValueError: parameters of another network, or a network that the layout can't hold: Keras and
        PyTorch have no counterpart of mgu, mingru, lru, block and layer_norm.
      OSError: the file can't be written.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    leaves = _arrays_of(params)
    if layout == "flax" and not isinstance(model, RNNModel):
        arrays = {name: leaf.astype(np.float32) for name, leaf in leaves.items()}
    else:
        shapes = _shapes(model)
        leaves = _checked(layouts.flax_layout(model, shapes), leaves, shapes)
        arrays = layouts.join(LAYOUTS[layout](model, shapes), leaves)
    if layout == "keras":
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_atomically(file, content.getvalue())
    else:
        write_atomically(file, safetensors.numpy.save(arrays))


def _shapes(model: Any) -> Shapes:
    """Return the shapes of the parameters, by names joined with slashes."""
    if not isinstance(model, RNNModel):
        raise ValueError(f"the model must be an RNNModel; got {type(model).__name__}")
    example = jnp.zeros((1, 1), jnp.int32) if model.embedding else jnp.zeros((1, 1, FEATURES))
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), example)
    leaves = flatten_dict(variables["params"], sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


def _arrays_of(weights: Any) -> dict[str, np.ndarray]:
    if isinstance(weights, str | os.PathLike):
        return _read(Path(weights))
    if isinstance(weights, list | tuple):
        return {f"arr_{index}": _as_numpy(array) for index, array in enumerate(weights)}
    if not isinstance(weights, Mapping):
        raise ValueError(
            "weights must be a file, a list of arrays (Keras: model.get_weights()) or arrays by "
            f"name (PyTorch: model.state_dict(), Flax: state.params); got {type(weights).__name__}"
        )
    inner = next((weights[name] for name in CHECKPOINTS if name in weights), weights)
    return {name: _as_numpy(leaf) for name, leaf in flatten_dict(dict(inner), sep="/").items()}


def _as_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):  # a PyTorch tensor; NumPy lacks its bfloat16
        array = array.detach().cpu().float().numpy()
    return np.asarray(array)


def _read(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    try:
        if not content.startswith(b"PK"):  # as zip files do
            return {name: _tensor(**view) for name, view in safetensors.deserialize(content)}
        with np.load(io.BytesIO(content)) as arrays:
            return {f"arr_{index}": arrays[f"arr_{index}"] for index in range(len(arrays))}
    except Exception as error:  # its type depends on the damage
        raise ValueError(
            f"{path} is not a safetensors file of floats, nor an npz file of arr_0, arr_1, … "
            f"({error}); write it with safetensors.torch.save_file(model.state_dict(), file) or "
            "np.savez(file, *model.get_weights())"
        ) from error


def _tensor(dtype: str, shape: Sequence[int], data: bytes) -> np.ndarray:
    """Return a tensor of a safetensors file; safetensors.numpy can't read bfloat16."""
    known = jnp.bfloat16 if dtype == "BF16" else f"{dtype[0].lower()}{int(dtype[1:]) // 8}"
    return np.frombuffer(data, known).reshape(shape)


def _checked(
    layout: Sequence[Entry], arrays: Mapping[str, np.ndarray], shapes: Shapes
) -> dict[str, np.ndarray]:
    """Return the arrays as float32, if they fit the layout."""
    entries = {entry.name: entry for entry in layout}
    if entries.keys() != arrays.keys():
        missing = _listed(name for name in entries if name not in arrays)
        unknown = _listed(name for name in arrays if name not in entries)
        raise ValueError(
            f"the model has {len(entries)} arrays, the weights {len(arrays)}; missing: {missing}; "
            f"not in the model: {unknown}"
        )
    features: Any = None
    for name, entry in entries.items():
        if not jnp.issubdtype(arrays[name].dtype, jnp.floating):
            raise ValueError(f"{name} must be an array of floats; got {arrays[name].dtype}")
        expected, got = entry.shape(shapes), arrays[name].shape
        features = features or dict(zip(expected, got, strict=False)).get(FEATURES)
        expected = tuple(features if size == FEATURES else size for size in expected)
        if got != expected:
            leaves = ", ".join(dict.fromkeys(entry.leaves))
            holds = "" if leaves == name else f" ({leaves})"
            raise ValueError(f"{name}{holds} must be of shape {expected}; got {got}")
    return {name: arrays[name].astype(np.float32) for name in entries}


def _listed(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(names) or "none", 120, placeholder=" …")
