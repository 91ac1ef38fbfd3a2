"""Checks of what ``fit`` is given, before anything is compiled."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.batches import as_key, check_batch_size
from jaxrnn.data.readable import Readable
from jaxrnn.data.splits import Batch, Split, arrays_of, check_examples, check_values
from jaxrnn.data.streams import Stream
from jaxrnn.training.forward import compute_outputs
from jaxrnn.training.history import History
from jaxrnn.training.state import TrainState


def check_fits(state: Any, on: Split | Stream | Readable, many: bool = False) -> int:
    """Check that model, task and data fit each other, without compiling anything.

    Args:
      state: of one network; its arrays may be shapes, as from ``jax.eval_shape``.
      on: what to train or evaluate on.
      many: whether it is for many networks.

    Returns:
      The number of outputs of the model.

    Raises:
      ValueError: they don't fit.
    """
    check_kind(on)
    if isinstance(on, Stream) and many:
        raise ValueError("many networks train on splits; a stream has the order of one network")
    if isinstance(on, Split):
        check_examples(on)
    source = on.source if isinstance(on, Stream) else on
    arrays = arrays_of(source if isinstance(source, Split) else source.read([0]))
    example = {
        name: jax.ShapeDtypeStruct((1, *np.shape(array)[1:]), jnp.result_type(array))
        for name, array in arrays.items()
    }
    outputs = _outputs.eval_shape(state, example).shape[-1]
    if isinstance(on, Split):
        check_values(on, outputs, getattr(state.model, "vocabulary", None) or outputs)
    return outputs


@jax.jit  # which remembers the shapes that it has seen
def _outputs(state: TrainState, batch: Batch) -> jax.Array:
    """The outputs of the network, if they fit the task."""
    check_examples(batch)
    outputs = compute_outputs(state, batch)
    state.task.measure(outputs, batch, train=True)
    return outputs


def check_kind(on: Any) -> None:
    """Raise ``ValueError`` unless something is a split, a stream, or can be read like a source."""
    if not isinstance(on, Split | Stream) and not hasattr(on, "read"):
        raise ValueError(
            f"expected a Split or a stream; got {type(on).__name__}: Split(inputs, labels) holds "
            "arrays, and stream(batches, batch_size=…) reads any iterable of (inputs, labels)"
        )


def data_order(
    train: Split | Stream, key: jax.Array | None, batch_size: int | None, drop_remainder: bool
) -> tuple[jax.Array, int]:
    """Find the root key and the batch size; a stream has its own, and others must not differ."""
    check_kind(train)
    key = None if key is None else as_key(key)
    if isinstance(train, Stream):
        if train.key is None:
            raise ValueError("a stream to train on needs a key, which determines its order")
        if key is not None and (
            key.shape or (jax.random.key_data(key) != jax.random.key_data(train.key)).any()
        ):
            raise ValueError("key differs from that of the stream, which determines its order")
        if batch_size not in (None, train.batch_size) or drop_remainder > train.drop_remainder:
            raise ValueError("batch_size and drop_remainder differ from those of the stream")
        return train.key, train.batch_size
    if key is None or batch_size is None:
        raise ValueError("key and batch_size are needed to train on a split")
    batch_size = operator.index(batch_size)
    check_batch_size(batch_size, train)
    return key, batch_size


def past_epochs(key: jax.Array, history: Any) -> tuple[History, ...]:
    """Check the history to continue; returns one for each network."""
    networks = max(1, key.size)
    if not history:
        return (History(),) * networks
    histories = (history,) if isinstance(history, History) else tuple(history)
    for one in histories:
        if [row["epoch"] for row in one] != list(range(1, len(histories[0]) + 1)):
            raise ValueError("history must contain every epoch from 1 on, once and in order")
    if len(histories) != networks:
        raise ValueError(f"{networks} networks need as many histories; got {len(histories)}")
    return histories
