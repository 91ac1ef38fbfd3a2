"""RNNModel: recurrent layers and a dense head."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Integer, Key

from jaxrnn.nn import cells
from jaxrnn.nn.dropout import drop
from jaxrnn.nn.lru import LRUCell, encode, gate
from jaxrnn.nn.pooling import pool
from jaxrnn.nn.recurrence import RNN

UNROLL = 4  # time steps per loop iteration of simple cells; unrolling does not speed up others
CHOICES = {
    "cell": cells.CELLS,
    "pooling": ("last", "mean", "max", "none"),
    "initializers": cells.INITIALIZERS,
    "activation": cells.ACTIVATIONS,
    "recurrence": ("fast", "flax"),
}

Lengths = Int[Array, "batch"] | None
Keys = Key[Array, "batch"] | None
Inputs = Float[Array, "batch time features"]


class RNNModel(nn.Module):
    r"""A recurrent network whose outputs are computed from the state after the last valid step.

    With the default cell this is the network of Elman (1990), with :math:`T` the last valid step:

    .. math::

        h_t = \tanh(x_t W_i + b_i + h_{t-1} W_h), \quad h_0 = 0, \quad
        \mathrm{outputs} = h_{T} W_o + b_o

    Attributes not listed here are those of :class:`jaxrnn.RNNConfig`.

    Attributes:
      hidden: number of units of each direction; the states of two directions are concatenated.
      outputs: number of outputs, which are the logits of the classes in classification.
      cell: one of ``simple``, ``gru``, ``lstm``, ``mgu``, ``mingru`` and ``lru``, or a cell object
        such as ``nn.GRUCell(64)``, of which every layer and direction gets a copy. A cell object
        sets its own number of units, activation and initializers.
      initializers: kernel initializers. ``keras``: Glorot uniform for the input, orthogonal for the
        recurrence, as in ``keras.layers.SimpleRNN``. ``tf1``: both Glorot uniform over the joint
        (features + hidden, hidden) kernel, as in ``tf.nn.rnn_cell.BasicRNNCell``. ``identity``:
        Glorot uniform for the input, the identity for the recurrence. ``permutation``: a random
        permutation matrix instead, which also preserves the states of rectified linear units, and
        keeps the inputs of different time steps apart. In all of them, biases start at 0 and the
        head is Glorot uniform.

    References:
      J. L. Elman, "Finding structure in time" (1990); X. Glorot and Y. Bengio, "Understanding the
      difficulty of training deep feedforward neural networks" (2010); Q. V. Le, N. Jaitly and
      G. E. Hinton, "A simple way to initialize recurrent networks of rectified linear units"
      (2015), for the identity; Y. Gal and Z. Ghahramani, "A theoretically grounded application of
      dropout in recurrent neural networks" (2016), for recurrent dropout.

    >>> model = RNNModel()
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    28360
    >>> model.apply({"params": params}, jnp.zeros((7, 28, 28))).shape
    (7, 10)
    """

    hidden: int = 150
    outputs: int = 10
    cell: str | nn.RNNCellBase = "simple"
    layers: int = 1
    bidirectional: bool = False
    pooling: str = "last"
    initializers: str = "keras"
    recurrent_gain: float = 1.0
    recurrence: str = "fast"
    activation: str = "tanh"
    skip: bool = False
    layer_norm: bool = False
    embedding: int | None = None
    vocabulary: int | None = None
    dropout: float = 0.0
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    chrono: int | None = None
    block: bool = False
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 6.28
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        inputs: Inputs | Integer[Array, "batch time"],
        lengths: Lengths = None,
        *,
        every_step: bool = False,
        keys: Keys = None,
        carry: chex.ArrayTree | None = None,
        return_carry: bool = False,
    ) -> chex.ArrayTree:
        """Compute (batch, outputs) or, with ``every_step``, (batch, time, outputs).

        Args:
          inputs: vectors, or tokens below ``vocabulary``.
          lengths: the number of valid time steps of each sequence; None if all are. Inputs after
            them are ignored, even if they are not finite. The outputs of a sequence of length 0 are
            those of the zero state.
          every_step: compute the outputs at each time step, as with ``pooling="none"``.
          keys: PRNG keys for the dropout of each example; None for no dropout.
          carry: initial state, as returned for the preceding time steps; by default 0.
          return_carry: return a tuple of the outputs and the state of every layer after the last
            valid time step.

        Raises:
          ValueError: inputs or lengths of a wrong shape, or an invalid option.
        """
        self._check(inputs, lengths)
        if self.bidirectional and (carry is not None or return_carry):
            raise ValueError("a bidirectional network has no state to carry over")
        states = drop(self._vectors(inputs), self.input_dropout, keys, 0)
        states = encode(states, lengths, self.hidden, self._lower) if self.in_blocks else states
        carries = []
        for layer in range(self.layers):
            below, initial = states, carry[layer] if carry else None
            if self.in_blocks:
                states = nn.LayerNorm(dtype=self._lower, name=f"norm{layer}")(states)
            states, last = self._layer(layer, states, lengths, initial, keys)
            carries.append(last)
            if self.in_blocks:
                states = below + gate(states, self.hidden, layer, self.dropout, keys, self._lower)
                continue
            if self.layer_norm:
                states = nn.LayerNorm(dtype=self._lower, name=f"norm{layer}")(states)
            if self.skip and layer:
                states = states + below
            if layer < self.layers - 1:
                states = drop(states, self.dropout, keys, 3 * layer + 1)

        states = jnp.moveaxis(states, 0, 1) if self.in_blocks else states
        how = "none" if every_step else self.pooling
        carried = how == "last" and self._last_is_carry(lengths)
        # If the carry is read, the gradients of all other states are symbolic zeros.
        read = last if carried else states
        read = read.astype(jnp.float32) if self._lower else read
        if not carried and how != "none":
            read = pool(read, lengths, how, self.bidirectional and not self.in_blocks)
        read = read if self.in_blocks else drop(read, self.dropout, keys, 3 * self.layers + 1)
        head = nn.Dense(self.outputs, kernel_init=nn.initializers.glorot_uniform(), name="head")
        return (head(read), tuple(carries)) if return_carry else head(read)

    @property
    def draws(self) -> bool:
        """Whether there is any dropout."""
        return max(self.dropout, self.input_dropout, self.recurrent_dropout) > 0

    @property
    def in_blocks(self) -> bool:
        """Whether each layer is in a residual block."""
        return self.block or self.cell == "lru"

    @property
    def _lower(self) -> jnp.dtype | None:
        """Compute dtype below the head; None for that of inputs and parameters."""
        return None if self.dtype == "float32" else jnp.dtype(self.dtype)

    def _check(self, inputs: Array, lengths: Lengths) -> None:
        tokens = inputs.ndim == 2 and jnp.issubdtype(inputs.dtype, jnp.integer)
        if not (inputs.ndim == 3 or tokens) or 0 in inputs.shape[1:]:
            raise ValueError(
                "inputs must be (batch, time, features), or (batch, time) integers; got shape "
                f"{inputs.shape}"
            )
        if lengths is not None and lengths.shape != inputs.shape[:1]:
            raise ValueError(f"lengths must be of shape ({inputs.shape[0]},); got {lengths.shape}")
        if self.in_blocks and (self.layer_norm or self.skip):
            raise ValueError("blocks include layer norm and skip connections; leave both out")
        for name in ("hidden", "outputs", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if isinstance(value, str) and value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")

    def _last_is_carry(self, lengths: Lengths) -> bool:
        """Return whether the carry of the last layer is its output after the last time step."""
        kind = cells.CELLS[self.cell] if isinstance(self.cell, str) else type(self.cell)
        changed = self.layer_norm or self.bidirectional or (self.skip and self.layers > 1)
        return lengths is None and kind in cells.STATE_IS_OUTPUT and not (changed or self.block)

    def _vectors(self, inputs: Array) -> Inputs:
        """Return the vectors that the first layer reads; NaN for tokens out of range."""
        if inputs.ndim == 3:
            return inputs.astype(self._lower) if self._lower else inputs
        tokens, size = inputs.astype(jnp.int32), self.vocabulary or self.outputs
        if self.embedding is None:
            vectors = jax.nn.one_hot(tokens, size, dtype=self._lower or jnp.float32)
        else:
            vectors = nn.Embed(size, self.embedding, dtype=self._lower, name="embedding")(tokens)
        return jnp.where(((tokens >= 0) & (tokens < size))[..., None], vectors, jnp.nan)

    def _layer(
        self, layer: int, inputs: Inputs, lengths: Lengths, carry: chex.ArrayTree, keys: Keys
    ) -> tuple[Array, chex.ArrayTree]:
        """Return the states of a layer, its directions concatenated, and its final carry."""
        directions = []
        for backward in range(1 + self.bidirectional):
            name = f"layer{layer}" + "_backward" * backward
            cell = self._cell(inputs.shape[-1], name)
            rnn = RNN(
                cell,
                reverse=bool(backward),
                keep_order=True,
                time_major=self.in_blocks,
                unroll=UNROLL if type(cell) is nn.SimpleCell else 1,
                fast=self.recurrence != "flax",
                mask=True,
            )
            if carry is None and self._lower and not isinstance(cell, LRUCell):
                shape = inputs.shape[self.in_blocks], inputs.shape[-1]
                carry = cell.initialize_carry(jax.random.key(0), shape)
                carry = jax.tree.map(lambda leaf: leaf.astype(self._lower), carry)  # was float32
            factors = None
            if self.recurrent_dropout and keys is not None:
                units = getattr(cell, "features", self.hidden)
                ones = jnp.ones((keys.shape[0], units), inputs.dtype)
                factors = drop(ones, self.recurrent_dropout, keys, 3 * layer + 2 + backward)
            last, states = rnn(
                inputs, initial_carry=carry, seq_lengths=lengths, return_carry=True, dropout=factors
            )
            directions.append(states)
            if self.chrono is not None and self.is_initializing():
                params, key = self.variables["params"][name], self.make_rng("params")
                params = cells.with_chrono_biases(cell, params, key, self.chrono)
                self.put_variable("params", name, params)
        return jnp.concatenate(directions, axis=-1), last

    def _cell(self, features: int, name: str) -> nn.RNNCellBase:
        if isinstance(self.cell, nn.RNNCellBase):
            return self.cell.clone(name=name, parent=self)
        if self.cell == "lru":
            ring = self.r_min, self.r_max, self.max_phase
            return LRUCell(self.hidden, *ring, name=name, parent=self, dtype=self._lower)
        options = self.initializers, self.recurrent_gain, self.activation
        cell = cells.build_cell(self.cell, features, self.hidden, *options)
        return cell.clone(name=name, parent=self, dtype=self._lower)
