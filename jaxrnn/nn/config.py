"""RNNConfig: the network of an experiment, described by plain values."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from jaxrnn.groups import Count, Fraction, Group, Positive
from jaxrnn.nn.model import RNNModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class RNNConfig(Group):
    """The recurrent network, an Elman network by default."""

    hidden: Count = 150
    """Number of recurrent units in each layer and direction."""
    cell: Literal["simple", "gru", "lstm", "mgu", "mingru", "lru"] = "simple"
    """Recurrent cell; simple is that of Elman networks, and lru a linear recurrent unit; mingru and
    lru run in parallel over time."""
    block: bool = False
    """Residual blocks: layer norm, recurrence, GELU, gated linear unit and skip connection in each
    layer, after a dense encoder of the inputs; always on for cell lru."""
    r_min: Fraction = 0.0
    """Minimum magnitude of the initial eigenvalues of cell lru."""
    r_max: Annotated[float, Gt(0), Le(1)] = 1.0
    """Maximum magnitude of the initial eigenvalues of cell lru."""
    max_phase: Positive = 6.28
    """Maximum phase of the initial eigenvalues of cell lru, in radians."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation function of the cell."""
    layers: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of recurrent layers; each reads the outputs of the one below."""
    bidirectional: bool = False
    """Read each sequence forwards and backwards."""
    skip: bool = False
    """Add the inputs of each layer to its outputs, from the second layer on."""
    layer_norm: bool = False
    """Layer normalization of the outputs of each layer."""
    pooling: Literal["last", "mean", "max", "none"] = "last"
    """Compute the outputs from the last valid state, the mean or the maximum of all valid states,
    or (none) the state at each time step."""
    embedding: Count | None = None
    """Size of the embedding of tokens; None for one-hot vectors."""
    vocabulary: Count | None = None
    """Number of distinct tokens; None for the number of outputs."""
    dropout: Fraction = 0.0
    """Dropout rate after every layer; blocks drop the same units at every time step."""
    input_dropout: Fraction = 0.0
    """Dropout rate of the inputs."""
    recurrent_dropout: Fraction = 0.0
    """Dropout rate of the recurrent state; the same units are dropped at every time step."""
    initializers: Literal["keras", "tf1", "identity", "permutation"] = "keras"
    """Initial weights: as in Keras (an orthogonal recurrent kernel), as in TF1, or with an identity
    or a permutation as the recurrent kernel."""
    recurrent_gain: Positive = 1.0
    """Scale factor of the initial recurrent kernels."""
    chrono: Annotated[int, Ge(2)] | None = None
    """Longest dependency, in time steps, for which gate biases are initialized (chrono
    initialization); None for biases of 0."""
    recurrence: Literal["fast", "flax"] = "fast"
    """Implementation of the recurrence: fast, scans with a hand-written gradient; flax,
    flax.linen.RNN, for comparison."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the recurrent layers; parameters, optimizer and head are float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chrono is not None and self.cell in ("simple", "lru"):
            raise ValueError("--chrono needs a --cell with gates: gru, lstm, mgu or mingru")
        linear = self.cell in ("mingru", "lru")
        if linear and (self.activation, self.recurrent_gain) != ("tanh", 1.0):
            raise ValueError(
                f"--cell {self.cell} has no activation and no recurrent kernel; use --activation "
                "tanh and --recurrent-gain 1"
            )
        if (self.block or self.cell == "lru") and (self.layer_norm or self.skip):
            raise ValueError(
                "--block and --cell lru already include layer norm and skip connections; leave out "
                "--layer-norm and --skip"
            )
        if self.r_min > self.r_max:
            raise ValueError(f"--r-min must be at most --r-max, {self.r_max:g}; got {self.r_min:g}")
        fast = self.cell in ("simple", "gru") and self.recurrence == "fast"
        if self.recurrent_dropout and not (fast or self.cell == "lstm"):
            raise ValueError(
                "--recurrent-dropout needs --cell lstm, or simple or gru with --recurrence fast"
            )

    def build(self, outputs: int) -> RNNModel:
        """Build the module, with ``outputs`` classes or numbers."""
        return RNNModel(outputs=outputs, **dataclasses.asdict(self))
