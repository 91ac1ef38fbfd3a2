"""RNNClassifier: a recurrent network reads a sequence, and a dense head gives the outputs."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxrnn.constraints import Count, Group, Positive
from jaxrnn.recurrence import RNN

CELLS: Mapping[str, Callable[..., nn.RNNCellBase]] = {
    "simple": nn.SimpleCell,
    "gru": nn.GRUCell,
    "lstm": nn.OptimizedLSTMCell,
    "mgu": nn.MGUCell,
}
INITIALIZERS = ("keras", "tf1", "identity")
POOLINGS = ("last", "none")
RECURRENCES = ("fast", "flax")
UNROLL = 4  # time steps per loop iteration; fewer, longer iterations cost less on a CPU


@dataclasses.dataclass(frozen=True, kw_only=True)
class RNNConfig(Group):
    """The recurrent network, an Elman network by default."""

    hidden: Count = 150
    """Recurrent units in each layer."""
    cell: Literal["simple", "gru", "lstm", "mgu"] = "simple"
    """Recurrent cell; simple is the Elman network."""
    layers: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of recurrent layers, each reading the states of the one below."""
    bidirectional: bool = False
    """Read each sequence forwards and backwards."""
    pooling: Literal["last", "none"] = "last"
    """Compute the outputs from the last valid state, or (none) from the state at each step."""
    initializers: Literal["keras", "tf1", "identity"] = "keras"
    """Initial weights: as in Keras, as in TF1, or an identity for the recurrent kernel."""
    recurrent_gain: Positive = 1.0
    """Factor of the initial recurrent kernels."""
    recurrence: Literal["fast", "flax"] = "fast"
    """Recurrence with a hand-written gradient, or flax.linen.RNN for comparison."""

    def build(self, outputs: int) -> "RNNClassifier":
        """Build the module, with ``outputs`` classes or numbers."""
        return RNNClassifier(classes=outputs, **dataclasses.asdict(self))


class RNNClassifier(nn.Module):
    r"""A recurrent network whose outputs are computed from the state after the last valid step.

    With the default cell this is the network of Elman (1990),

    .. math::

        h_t = \tanh(x_t W_i + b_i + h_{t-1} W_h), \quad h_0 = 0, \quad
        \mathrm{outputs} = h_{T} W_o + b_o

    where :math:`T` is the last valid time step.

    Attributes:
      classes: number of outputs, which are the logits of the classes in classification.
      hidden, layers, bidirectional, pooling, recurrent_gain: see :class:`RNNConfig`. Directions
        have ``hidden`` units each, and their last states are joined.
      cell: one of Flax's cells, by name (``simple``, ``gru``, ``lstm``, ``mgu``), or a cell object
        such as ``nn.GRUCell(64)``, of which every layer and direction gets its own copy. A cell
        object has its own number of units and initializers.
      initializers: of the kernels. ``keras``: Glorot uniform for the input, orthogonal for the
        recurrence, as ``keras.layers.SimpleRNN``. ``tf1``: both Glorot uniform over the joint
        (features + hidden, hidden) kernel, as ``tf.nn.rnn_cell.BasicRNNCell``. ``identity``: Glorot
        uniform for the input, the identity for the recurrence. Biases start at 0, and the head is
        Glorot uniform in all three.
      recurrence: ``fast``, the scans of :class:`jaxrnn.RNN`; or ``flax``, those of
        ``flax.linen.RNN``, which give the same result to float rounding.

    Source: J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990); X. Glorot and
    Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010);
    Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
    rectified linear units" (2015), for the identity.

    >>> model = RNNClassifier()
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    28360
    >>> model.apply({"params": params}, jnp.zeros((7, 28, 28))).shape
    (7, 10)
    """

    hidden: int = 150
    classes: int = 10
    cell: str | nn.RNNCellBase = "simple"
    layers: int = 1
    bidirectional: bool = False
    pooling: str = "last"
    initializers: str = "keras"
    recurrent_gain: float = 1.0
    recurrence: str = "fast"

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
    ) -> jax.Array:
        """Compute the outputs of a batch of sequences.

        Args:
          inputs: (batch, time, features), floats.
          lengths: (batch,), the number of valid time steps of each sequence; None if all are.
            Inputs after them don't matter, even if they are not finite. The outputs of a sequence
            of length 0 are those of the zero state.
          every_step: compute the outputs at each time step, as with ``pooling="none"``.

        Returns:
          (batch, classes) outputs, or (batch, time, classes) at every step.

        Raises:
          ValueError: inputs or lengths of another shape, or a bad option.
        """
        if inputs.ndim != 3 or 0 in inputs.shape[1:]:
            raise ValueError(f"inputs must be (batch, time, features); got shape {inputs.shape}")
        if lengths is not None and lengths.shape != inputs.shape[:1]:
            raise ValueError(f"lengths must be of shape ({inputs.shape[0]},); got {lengths.shape}")

        for name in ("hidden", "classes", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name, choices in (("recurrence", RECURRENCES), ("pooling", POOLINGS)):
            if getattr(self, name) not in choices:
                known = ", ".join(choices)
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")

        every_step = every_step or self.pooling == "none"
        states = inputs
        for layer in range(self.layers):
            last = layer == self.layers - 1
            directions: list[jax.Array] = []
            for reverse in (False, True) if self.bidirectional else (False,):
                rnn = RNN(
                    self._cell(states.shape[-1], f"layer{layer}" + "_backward" * reverse),
                    reverse=reverse,
                    # States line up with the inputs, except where the last one is taken: there
                    # each direction must end with the state that has read everything.
                    keep_order=every_step or not last,
                    unroll=UNROLL,
                    fast=self.recurrence == "fast",
                    mask=True,
                )
                directions.append(jnp.asarray(rnn(states, seq_lengths=lengths)))
            states = jnp.concatenate(directions, axis=-1)

        head = nn.Dense(self.classes, kernel_init=nn.initializers.glorot_uniform(), name="head")
        return head(states if every_step else _last_valid(states, lengths))

    def _cell(self, features: int, name: str) -> nn.RNNCellBase:
        if isinstance(self.cell, nn.RNNCellBase):
            return self.cell.clone(name=name, parent=self)
        if self.cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}; got {self.cell!r}")
        if self.initializers not in INITIALIZERS:
            raise ValueError(
                f"initializers must be one of {', '.join(INITIALIZERS)}; got {self.initializers!r}"
            )
        joint = joint_glorot_uniform(features, self.hidden)
        kernel, recurrent = {
            "keras": (nn.initializers.glorot_uniform(), nn.initializers.orthogonal()),
            "tf1": (joint, joint),
            "identity": (nn.initializers.glorot_uniform(), _identity),
        }[self.initializers]
        kernels = {"kernel_init": kernel, "recurrent_kernel_init": self._scaled(recurrent)}
        return CELLS[self.cell](self.hidden, **kernels, name=name)

    def _scaled(self, init: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        if self.recurrent_gain == 1:
            return init
        return lambda *args: self.recurrent_gain * init(*args)


def _identity(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    return jnp.eye(*shape, dtype=dtype)


def joint_glorot_uniform(features: int, hidden: int) -> Callable[..., jax.Array]:
    r"""Glorot uniform for the two parts of a (features + hidden, hidden) kernel, as TF1's cells.

    .. math:: W \sim U(-a, a), \quad a = \sqrt{6 / (\mathrm{features} + 2\,\mathrm{hidden})}
    """
    limit = math.sqrt(6 / (features + 2 * hidden))

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def _last_valid(states: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Take the state after the last valid step, 0 if there is none: (batch, hidden)."""
    if lengths is None:
        return states[:, -1]
    last = jnp.take_along_axis(states, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where(lengths[:, None] > 0, last, 0)
