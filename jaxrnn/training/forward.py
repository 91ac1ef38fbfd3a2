"""measure: the outputs and the metrics of a state on one batch."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError

from jaxrnn.data.batches import as_key, mask_padding
from jaxrnn.data.splits import Batch, check_examples, scale
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.state import TrainState

_NO_KEY = "the model draws random numbers, as for dropout: give a key, as in train_step(…, key)"
_NOT_DETERMINISTIC = (
    "the model draws random numbers in evaluation; its call must take train or deterministic"
)


def measure(
    state: TrainState, batch: Batch, *, train: bool = False, key: jax.Array | None = None
) -> Metrics:
    """The :class:`jaxrnn.Metrics` of a state on one batch, differentiable in ``state.params``.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      batch: see :func:`train_step`.
      train: whether to measure as in training: with dropout, and see :meth:`jaxrnn.Task.measure`.
      key: determines the dropout; needed if there is any.

    Raises:
      ValueError: the arrays of the batch, or the outputs of the model, don't fit each other.
    """
    rows = jnp.arange(jnp.shape(batch["inputs"])[0]) if key is not None else None
    keys = None if key is None else keys_of(as_key(key), rows)
    return measure_part(state, batch, train=train, keys=keys)[0]


def keys_of(key: jax.Array, rows: Any) -> jax.Array:
    """A key for each example of a batch, by its row."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def measure_part(
    state: TrainState,
    batch: Batch,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
    carry: Any = None,
) -> tuple[Metrics, Any]:
    """As :func:`measure`, with a key for each example, beginning at a carry; returns the next."""
    check_examples(batch)
    batch = mask_padding(batch)
    outputs = compute_outputs(state, batch, train=train, keys=keys, carry=carry)
    outputs, carry = outputs if carry is not None else (outputs, None)
    metrics = Metrics.of(state.task.measure(outputs, batch, train=train), state.task.weights(batch))
    if "lengths" not in batch:
        return metrics, carry
    lengths = jnp.asarray(batch["lengths"])
    known = ((lengths >= 0) & (lengths <= jnp.shape(batch["inputs"])[1])).all()
    loss = jnp.where(known, metrics.sums["loss"], jnp.nan)
    return Metrics({**metrics.sums, "loss": loss}, metrics.weight), carry


def compute_outputs(
    state: TrainState,
    batch: Batch,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
    carry: Any = None,
) -> Any:
    """Apply the network to the ``inputs`` and ``lengths`` of a batch: (batch, [time,] width).

    Args:
      state: see :func:`measure`.
      batch: see :func:`measure`.
      train: whether dropout is on.
      keys: a key for each example; needed if there is dropout.
      carry: the state to begin with, ``()`` for that of a new sequence; if given, a tuple of the
        outputs and the next carry is returned.

    Raises:
      ValueError: the network draws random numbers, and there is no key; or it takes no carry.
    """
    batch = mask_padding(batch)
    lengths = (jnp.asarray(batch["lengths"]),) if "lengths" in batch else ()
    inputs = scale(jnp.asarray(batch["inputs"]))
    options = _random_options(state, train, keys)
    if carry is not None:
        if "carry" not in _parameters(state):
            raise ValueError("truncated backpropagation and generation need a model with a carry")
        options |= {"carry": carry, "return_carry": True}
    try:
        return state.apply_fn({"params": _unboxed(state.params)}, inputs, *lengths, **options)
    except InvalidRngError as error:
        raise ValueError(_NO_KEY if train else _NOT_DETERMINISTIC) from error


def draws(state: TrainState) -> bool:
    """Whether the network takes keys in training: it draws random numbers then."""
    return bool(getattr(state.model, "draws", {"train", "deterministic"} & _parameters(state)))


def _random_options(state: TrainState, train: bool, keys: jax.Array | None) -> dict[str, Any]:
    """The options of the network that turn dropout on or off, by what its call takes."""
    taken = _parameters(state)
    if "keys" in taken:
        if not train or not draws(state):
            return {}
        if keys is None:
            raise ValueError(_NO_KEY)
        return {"keys": keys}
    options: dict[str, Any] = {}
    if "train" in taken:
        options["train"] = train
    elif "deterministic" in taken:
        options["deterministic"] = not train
    if options and train and keys is not None:
        options["rngs"] = {"dropout": keys[0]}
    return options


def _parameters(state: TrainState) -> set[str]:
    """The names of what the call of the network takes; none for a function of the user's own."""
    return set() if state.model is None else {*inspect.signature(state.model.__call__).parameters}


def _unboxed(params: Any) -> Any:
    """Parameters out of the boxes of ``nn.with_partitioning``: every device has all of them."""

    def is_box(leaf: Any) -> bool:
        return isinstance(leaf, nn.Partitioned)

    return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, params, is_leaf=is_box)
