"""Cells: Flax's, by name, and minGRU; what the scans of :class:`jaxrnn.RNN` need from each."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = Callable[..., jax.Array]


class MinGRUCell(nn.RNNCellBase):
    r"""A minimal gated recurrent unit, whose gate and candidate don't depend on the state.

    .. math::

        z_t = \sigma(x_t W_z + b_z), \quad
        h_t = (1 - z_t) \odot h_{t-1} + z_t \odot (x_t W_n + b_n)

    The recurrence is linear and elementwise, so :class:`jaxrnn.RNN` computes it in parallel over
    time.

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio and H. Hajimirsadeghi, "Were RNNs all we
    needed?" (2024).

    >>> cell = MinGRUCell(features=4)
    >>> variables = cell.init(jax.random.key(0), jnp.zeros((2, 4)), jnp.zeros((2, 3)))
    >>> state, outputs = cell.apply(variables, jnp.zeros((2, 4)), jnp.ones((2, 3)))
    >>> outputs.shape
    (2, 4)
    """

    features: int
    gate_fn: Callable[..., Any] = nn.sigmoid
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32
    carry_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, carry: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Compute the next state, which is the output too, from (*batch, features) inputs."""
        options: Any = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "kernel_init": self.kernel_init,
            "bias_init": self.bias_init,
        }
        update = self.gate_fn(nn.Dense(self.features, **options, name="iz")(inputs))
        candidate = nn.Dense(self.features, **options, name="in")(inputs)
        state = (1 - update) * carry + update * candidate
        return state, state

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> jax.Array:
        """The initial state, (*batch, features)."""
        return self.carry_init(rng, (*input_shape[:-1], self.features), self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """Number of feature axes of the inputs."""
        return 1


CELLS: Mapping[str, Callable[..., nn.RNNCellBase]] = {
    "simple": nn.SimpleCell,
    "gru": nn.GRUCell,
    "lstm": nn.OptimizedLSTMCell,
    "mgu": nn.MGUCell,
    "mingru": MinGRUCell,
}
INITIALIZERS = ("keras", "tf1", "identity", "permutation")
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {"tanh": jnp.tanh, "relu": nn.relu}

# The gates of the cells that have their own scans, as Flax names their parameters.
GATES: Mapping[type, str] = {nn.SimpleCell: "", nn.GRUCell: "rzn", MinGRUCell: "zn"}


# Cells whose carry is their output.
STATE_IS_OUTPUT = (nn.SimpleCell, nn.GRUCell, nn.MGUCell, MinGRUCell)


def is_recurrent_kernel(path: Any, leaf: Any) -> bool:
    """Whether a parameter multiplies the state of a cell, which Flax names ``h…/kernel``."""
    names = [getattr(part, "key", "") for part in path]
    named = len(names) > 1 and names[-2].startswith("h") and names[0] != "head"
    return bool(named and names[-1] == "kernel" and leaf.ndim >= 2)


def build_cell(
    name: str, features: int, hidden: int, initializers: str, gain: float, activation: str
) -> nn.RNNCellBase:
    """Build a cell with the initial weights of :class:`jaxrnn.RNNModel`; it has no name yet.

    Args:
      name: one of ``CELLS``.
      features: number of inputs at each time step.
      hidden: its number of units.
      initializers, gain, activation: see :class:`jaxrnn.RNNConfig`.
    """
    joint = joint_glorot_uniform(features, hidden)
    kernel, recurrent = {
        "keras": (nn.initializers.glorot_uniform(), nn.initializers.orthogonal()),
        "tf1": (joint, joint),
        "identity": (nn.initializers.glorot_uniform(), _identity),
        "permutation": (nn.initializers.glorot_uniform(), _permutation),
    }[initializers]
    options: dict[str, Any] = {"kernel_init": kernel}
    if name != "mingru":
        options["recurrent_kernel_init"] = _scaled(recurrent, gain)
    if activation != "tanh":
        options["activation_fn"] = ACTIVATIONS[activation]
    return CELLS[name](hidden, **options)


def _scaled(init: Initializer, gain: float) -> Initializer:
    return init if gain == 1 else lambda *args: gain * init(*args)


def _identity(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    return jnp.eye(*shape, dtype=dtype)


def _permutation(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    return _identity(key, shape, dtype)[jax.random.permutation(key, shape[0])]


def joint_glorot_uniform(features: int, hidden: int) -> Initializer:
    r"""Glorot uniform for the two parts of a (features + hidden, hidden) kernel, as in TF1's cells.

    .. math:: W \sim U(-a, a), \quad a = \sqrt{6 / (\mathrm{features} + 2\,\mathrm{hidden})}
    """
    limit = math.sqrt(6 / (features + 2 * hidden))

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def with_chrono_biases(params: Any, key: jax.Array, longest: int) -> Any:
    r"""The parameters of a cell with gate biases for memories of up to ``longest`` time steps.

    .. math:: b = \log u, \quad u \sim U(1, \mathrm{longest} - 1)

    for the gate that keeps the state, and :math:`-b` for the one that writes to it: a unit whose
    gate is :math:`\sigma(b)` forgets in about :math:`u` time steps.

    Raises:
      ValueError: the cell has no such gate.

    Source: C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?" (2018).
    """
    # Flax's LSTM has its biases in the recurrent modules. The GRU's z and the MGU's f both keep
    # and replace the state; minGRU's z writes it.
    signs = {frozenset("ifgo"): {"hf": 1, "hi": -1}, frozenset("rzn"): {"iz": 1}}
    signs |= {frozenset("fn"): {"if": 1}, frozenset("zn"): {"iz": -1}}
    gates = frozenset(name.removeprefix("i") for name in params if name.startswith("i"))
    if gates not in signs:
        raise ValueError("chrono needs a cell with gates: gru, lstm, mgu or mingru")
    changed = dict(params)
    for name, sign in signs[gates].items():
        bias = params[name]["bias"]
        unit = jax.random.uniform(key, bias.shape, bias.dtype, 1, max(longest - 1, 1))
        changed[name] = {**params[name], "bias": sign * jnp.log(unit)}
    return changed


def shapes_of_weights(cell: Any, features: int) -> dict[tuple[str, str], tuple[int, ...]]:
    """The shapes of the parameters that the scan of a cell needs, by module and name."""
    hidden, gates = cell.features, GATES[type(cell)]
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for gate in gates or [""]:
        shapes |= {(f"i{gate}", "kernel"): (features, hidden), (f"i{gate}", "bias"): (hidden,)}
        if type(cell) is not MinGRUCell:
            shapes[f"h{gate}", "kernel"] = (hidden, hidden)
    if type(cell) is nn.GRUCell:
        shapes["hn", "bias"] = (hidden,)
    return shapes


def join_weights(cell: Any, params: Any) -> list[jax.Array]:
    """The input kernel and bias of all gates, and the recurrent kernel and bias, if any."""
    gates = GATES[type(cell)]
    if not gates:
        return [params["i"]["kernel"], params["i"]["bias"], params["h"]["kernel"]]

    def side_by_side(prefix: str, name: str) -> jax.Array:
        return jnp.concatenate([params[prefix + gate][name] for gate in gates], axis=-1)

    joined = [side_by_side("i", "kernel"), side_by_side("i", "bias")]
    if type(cell) is nn.GRUCell:
        joined += [side_by_side("h", "kernel"), params["hn"]["bias"]]
    return joined
