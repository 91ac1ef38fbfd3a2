"""The forward pass: apply the network of a state to a batch, and measure its outputs."""

from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import InvalidRngError, ScopeParamShapeError
from jaxtyping import Array, Int, Key

from jaxrnn.data.batches import as_key, check_values, prepare
from jaxrnn.data.splits import Batch, Split, arrays_of
from jaxrnn.data.streams import Stream
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.state import TrainState, mode_options
from jaxrnn.training.tasks import Outputs, per_step

Keys: TypeAlias = Key[Array, " batch"] | None
"""A key for each example; required if the network draws random numbers."""
Carry: TypeAlias = chex.ArrayTree | None
"""State of a network between the chunks of a sequence; None if the sequences are whole."""

_NO_KEY = "the model draws random numbers, as for dropout: give a key, as in train_step(…, key)"
_NOT_DETERMINISTIC = (
    "the model draws random numbers in evaluation; its call must take train or deterministic"
)


def measure(
    state: TrainState, batch: Batch, *, train: bool = False, key: Key[Array, ""] | None = None
) -> Metrics:
    """Compute the metrics of a state on one batch; differentiable in ``state.params``.

    With ``train``, dropout is on, which requires a key, and the loss is that of training; see
    :meth:`jaxrnn.Task.measure`. Batches and errors are those of :func:`jaxrnn.train_step`.
    """
    batch = prepare(batch)
    keys = None if key is None else keys_of(as_key(key), jnp.arange(len(batch["inputs"])))
    return measure_prepared(state, batch, train=train, keys=keys)[0]


def keys_of(key: Key[Array, ""], rows: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Derive a key for each example of a batch, from its row."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def measure_prepared(
    state: TrainState, batch: Batch, *, train: bool = False, keys: Keys = None, carry: Carry = None
) -> tuple[Metrics, Carry]:
    """Compute metrics, as :func:`measure`, and the next carry; see :func:`forward` for arguments.

    The loss is NaN if a length is out of range.
    """
    outputs, carry = forward(state, batch, train=train, keys=keys, carry=carry)
    metrics = Metrics.of(state.task.measure(outputs, batch, train=train), state.task.weights(batch))
    if "lengths" in batch:
        lengths, time = batch["lengths"], batch["inputs"].shape[1]
        known = ((lengths >= 0) & (lengths <= time)).all()
        loss = jnp.where(known, metrics.sums["loss"], jnp.nan)
        metrics = Metrics({**metrics.sums, "loss": loss}, metrics.weight)
    return metrics, carry


def measure_in_pieces(
    state: TrainState, batch: Batch, *, size: int, train: bool, keys: Keys, carry: Carry
) -> tuple[Metrics, Carry]:
    """Compute metrics, as :func:`measure_prepared`, in pieces of ``size`` time steps.

    Each piece is recomputed in the backward pass, so that only its carry is stored.
    """
    every_step = per_step(batch)
    time = batch["inputs"].shape[1]
    last = time % size or size  # number of time steps of the last piece

    @partial(jax.checkpoint, static_argnums=(2, 3))
    def piece(
        carry: Carry, start: Int[Array, ""] | int, size: int, measured: bool
    ) -> tuple[Carry, Metrics | None]:
        own = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, start)
        part = cut(batch, start, size)
        if not measured:
            return forward(state, part, train=train, keys=own, carry=carry)[1], None
        metrics, carry = measure_prepared(state, part, train=train, keys=own, carry=carry)
        return carry, metrics

    carry = start_carry(state, batch) if carry is None else carry
    starts = jnp.arange(0, time - last, size)
    carry, sums = jax.lax.scan(lambda carry, at: piece(carry, at, size, every_step), carry, starts)
    carry, metrics = piece(carry, time - last, last, True)
    if every_step:
        metrics += jax.tree.map(lambda sums: sums.sum(0), sums)
    if state.task.weights(batch) is None:  # a number that depends on shapes alone, as for a whole
        part = cut(batch, 0, 1)
        measured = jax.eval_shape(
            lambda: state.task.measure(forward(state, part)[0], part, train=True)
        )
        of_step = measured["loss"].size
        metrics = Metrics(metrics.sums, of_step * time if every_step else of_step)
    return metrics, carry


def start_carry(state: TrainState, batch: Batch) -> Carry:
    """Return the carry of a new sequence."""
    _, carry = jax.eval_shape(partial(forward, carry=()), state, cut(batch, 0, 1))
    return jax.tree.map(jnp.zeros_like, carry)


def cut(batch: Batch, start: Int[Array, ""] | int, size: int) -> Batch:
    """Return a slice of the time steps of a batch; labels of whole sequences are kept."""
    part = dict(batch)
    for name in ("inputs", "labels", "targets") if per_step(batch) else ("inputs",):
        if name in batch:
            part[name] = jax.lax.dynamic_slice_in_dim(batch[name], start, size, axis=1)
    if "lengths" in batch:
        lengths, time = batch["lengths"], batch["inputs"].shape[1]
        known = (lengths >= 0) & (lengths <= time)
        part["lengths"] = jnp.where(known, jnp.clip(lengths - start, 0, size), -1)
    return part


def forward(
    state: TrainState, batch: Batch, *, train: bool = False, keys: Keys = None, carry: Carry = None
) -> tuple[Outputs, Carry]:
    """Compute the outputs of the network for a prepared batch and, if one is given, the next carry.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      batch: from :func:`jaxrnn.data.batches.prepare`; ``inputs`` and ``lengths`` are read.
      train: whether dropout is on.
      keys: a key for each example, required if there is dropout.
      carry: state of the network; ``()`` for that of a new sequence.

    Raises:
      ValueError: the network draws random numbers, and there is no key; or it takes no carry, or
        no lengths.
    """
    options = _mode_and_keys(state, train, keys)
    if "lengths" in batch:
        if state.takes and "lengths" not in state.takes:
            takes = ", ".join(sorted(state.takes))
            raise ValueError(f"the examples have lengths, but the model's call takes {takes}")
        options["lengths"] = batch["lengths"]
    if carry is not None:
        if "carry" not in state.takes:
            raise ValueError("generation needs a model with a carry")
        options |= {"carry": carry, "return_carry": True}
    try:
        variables = {"params": nn.meta.unbox(state.params)}
        result = state.apply_fn(variables, batch["inputs"], **options)
    except InvalidRngError as error:
        raise ValueError(_NO_KEY if train and state.draws else _NOT_DETERMINISTIC) from error
    outputs, carry = (result, None) if carry is None else result
    if not isinstance(outputs, jax.Array):
        kind = type(outputs).__name__
        raise ValueError(f"the model must return one array, the outputs; got {kind}")
    return outputs, carry


def _mode_and_keys(state: TrainState, train: bool, keys: Keys) -> dict[str, object]:
    """Return the arguments of the call that turn dropout on or off and, if needed, pass keys."""
    options: dict[str, object] = {**mode_options(state.takes, train=train)}
    of_examples, linen = "keys" in state.takes, isinstance(state.model, nn.Module | None)
    draws = train and state.draws
    if draws and keys is None and (of_examples or not linen):
        raise ValueError(_NO_KEY)
    if of_examples:
        options |= {"keys": keys} if draws else {}
    elif not linen:
        options |= {"in_training": train, "streams": None if keys is None else keys[0]}
    elif options and train and keys is not None:
        # make_rng falls back to the key of params.
        options["rngs"] = {"dropout": keys[0], "params": jax.random.fold_in(keys[0], 1)}
    return options


def check_fits(state: TrainState, data: Mapping[str, Split | Stream]) -> int:
    """Check that model, task and data fit each other; return the number of outputs.

    Nothing is compiled, and the arrays of the state may be shapes. Errors name the split.
    """
    for name, examples in data.items():
        try:
            outputs = _check_fit(state, examples)
        except (ValueError, ScopeParamShapeError) as error:
            raise ValueError(f"{name} split: {error}") from error
    sources = (getattr(examples, "source", examples) for examples in data.values())
    names = {tuple(getattr(source, "class_names", ())) for source in sources}
    if len(names - {()}) > 1:
        raise ValueError("the splits must have the same class names")
    return outputs


def _check_fit(state: TrainState, examples: Split | Stream) -> int:
    if not isinstance(examples, Split | Stream):
        raise ValueError(f"expected a Split or a stream; got {type(examples).__name__}")
    arrays = arrays_of(examples) if isinstance(examples, Split) else examples.source.read([0])
    one = {
        name: jax.ShapeDtypeStruct((1, *np.shape(array)[1:]), jnp.result_type(array))
        for name, array in arrays.items()
    }
    outputs: int = _outputs.eval_shape(state, one).shape[-1]
    if isinstance(examples, Split):
        check_values(examples, outputs, getattr(state.model, "vocabulary", None) or outputs)
    return outputs


@jax.jit  # caches the shapes that it has traced
def _outputs(state: TrainState, batch: Batch) -> Outputs:
    batch = prepare(batch)
    outputs, _ = forward(state, batch)
    state.task.measure(outputs, batch, train=True)
    return outputs
