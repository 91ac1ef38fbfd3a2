"""Recurrent cells by name, and how the library treats each."""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jaxtyping import Array, Float, Key

from jaxrnn.nn.linear import MinGRUCell, min_gru_scan
from jaxrnn.nn.lru import LRUCell
from jaxrnn.nn.scans import Activation, elman_scan, gru_scan
from jaxrnn.nn.sequences import State, States

CELLS: Mapping[str, Callable[..., nn.RNNCellBase]] = {
    "simple": nn.SimpleCell,
    "gru": nn.GRUCell,
    "lstm": nn.OptimizedLSTMCell,
    "mgu": nn.MGUCell,
    "mingru": MinGRUCell,
    "lru": LRUCell,
}
ACTIVATIONS: Mapping[str, Activation] = {"tanh": jnp.tanh, "relu": nn.relu}

# Initializers of the recurrent kernel; that of tf1 depends on the number of inputs.
INITIALIZERS: Mapping[str, Initializer | None] = {
    "keras": nn.initializers.orthogonal(),
    "tf1": None,
    "identity": lambda key, shape, dtype: jnp.identity(shape[0], dtype),
    "permutation": lambda key, shape, dtype: jnp.identity(shape[0], dtype)[
        jax.random.permutation(key, shape[0])
    ],
}

# Cells whose carry is their output.
STATE_IS_OUTPUT = (nn.SimpleCell, nn.GRUCell, nn.MGUCell, MinGRUCell)

# Cells with scans of their own, and their gates by Flax's names.
SCANNED = {nn.SimpleCell: [""], nn.GRUCell: ["r", "z", "n"], MinGRUCell: ["z", "n"], LRUCell: []}

# Gates whose biases chrono initialization sets: 1 for those that keep the state, -1 for those that
# write it. The z of a GRU and the f of an MGU do both; Flax's LSTM has its biases in the h modules.
CHRONO_GATES: Mapping[type, Mapping[str, int]] = {
    nn.GRUCell: {"iz": 1},
    nn.LSTMCell: {"hf": 1, "hi": -1},
    nn.OptimizedLSTMCell: {"hf": 1, "hi": -1},
    nn.MGUCell: {"if": 1},
    MinGRUCell: {"iz": -1},
}


def is_recurrent_kernel(path: tuple[chex.ArrayTree, ...], leaf: Array) -> bool:
    """Return whether a parameter is a recurrent kernel, of ``h``, ``hi`` or ``dense_h`` in Flax."""
    name = jax.tree_util.keystr(path[-2:], simple=True, separator="/")
    return leaf.ndim >= 2 and re.fullmatch(r"(dense_)?h[a-z]?/kernel", name) is not None


def is_lru_parameter(path: tuple[chex.ArrayTree, ...]) -> bool:
    """Return whether a parameter belongs to the recurrence of an :class:`LRUCell`, by its name."""
    names = [part.key for part in path if hasattr(part, "key")]
    return bool(names) and str(names[-1]).startswith("lru_")


def join_weights(
    cell: nn.RNNCellBase, params: chex.ArrayTree, features: int
) -> list[Float[Array, "..."]] | None:
    """Concatenate the weights of all gates: input kernel and bias, recurrent kernel and bias.

    Returns None if parameters are missing or have other shapes than for ``features`` inputs.
    """
    gates, hidden = SCANNED[type(cell)], cell.features
    weights = [("i", gates, "kernel", (features, hidden)), ("i", gates, "bias", (hidden,))]
    if not isinstance(cell, MinGRUCell):
        weights.append(("h", gates, "kernel", (hidden, hidden)))
    if isinstance(cell, nn.GRUCell):
        weights.append(("h", ["n"], "bias", (hidden,)))
    joined = []
    for side, gates, name, shape in weights:
        leaves = [params.get(side + gate, {}).get(name) for gate in gates]
        if any(getattr(leaf, "shape", None) != shape for leaf in leaves):
            return None
        joined.append(jnp.concatenate(leaves, axis=-1))
    return joined


def choose_scan(
    cell: nn.RNNCellBase, unroll: int, dropout: State | None = None
) -> Callable[..., tuple[State, States]]:
    """Return the scan of a cell in SCANNED: a function of inputs, carry, weights and lengths."""
    if isinstance(cell, MinGRUCell):
        return partial(min_gru_scan, gate=cell.gate_fn)
    options = {"activation": cell.activation_fn, "unroll": unroll, "dropout": dropout}
    if isinstance(cell, nn.GRUCell):
        return partial(gru_scan, gate=cell.gate_fn, **options)
    return partial(elman_scan, residual=cell.residual, **options)


def build_cell(
    name: str, features: int, hidden: int, initializers: str, gain: float, activation: str
) -> nn.RNNCellBase:
    r"""Build the cell of :class:`jaxrnn.RNNModel` for ``features`` inputs per time step.

    Both kernels of tf1 are Glorot uniform over the joint (features + hidden, hidden) kernel:

    .. math:: W \sim U(-a, a), \quad a = \sqrt{6 / (\mathrm{features} + 2\,\mathrm{hidden})}
    """
    kernel, recurrent = nn.initializers.glorot_uniform(), INITIALIZERS[initializers]
    if recurrent is None:
        limit = math.sqrt(6 / (features + 2 * hidden))
        kernel = recurrent = partial(jax.random.uniform, minval=-limit, maxval=limit)
    options: dict[str, Callable[..., Array]] = {"kernel_init": kernel}
    if name != "mingru":
        options["recurrent_kernel_init"] = lambda *args: gain * recurrent(*args)
    if activation != "tanh":
        options["activation_fn"] = ACTIVATIONS[activation]
    return CELLS[name](hidden, **options)


def with_chrono_biases(
    cell: nn.RNNCellBase, params: chex.ArrayTree, key: Key[Array, ""], longest: int
) -> chex.ArrayTree:
    r"""Set the gate biases of a cell for dependencies of up to ``longest`` time steps.

    .. math:: b = \log u, \quad u \sim U(1, \mathrm{longest} - 1)

    for the gate that keeps the state, and :math:`-b` for the one that writes to it: a unit whose
    gate is :math:`\sigma(b)` forgets in about :math:`u` time steps.

    Raises:
      ValueError: the cell has no such gate.

    References:
      C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?" (2018).
    """
    if type(cell) not in CHRONO_GATES:
        raise ValueError("chrono needs a cell with gates: gru, lstm, mgu or mingru")
    changed = dict(params)
    for name, sign in CHRONO_GATES[type(cell)].items():
        bias = params[name]["bias"]
        unit = jax.random.uniform(key, bias.shape, bias.dtype, 1, max(longest - 1, 1))
        changed[name] = {**params[name], "bias": sign * jnp.log(unit)}
    return changed
