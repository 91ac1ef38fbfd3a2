"""evaluate and predict: apply a state to a whole split."""

import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrnn.compiled import compiled
from jaxrnn.data.splits import Batch, Split, check_examples, take
from jaxrnn.data.streams import Stream, mesh_of
from jaxrnn.training.forward import compute_outputs, measure
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import (
    batch_mesh,
    for_each_member,
    over_devices,
    own_share,
    sum_over_devices,
    to_host,
)
from jaxrnn.training.state import TrainState

_STATES = 2**24  # float32 numbers


@compiled("batch_size", "mesh")
def evaluate(
    state: TrainState, split: Split, *, batch_size: int | None = None, mesh: Mesh | None = None
) -> Metrics:
    """Measure a state on a whole split, as its task says, in one XLA program.

    Pure. Every example counts exactly once, whether or not ``batch_size`` divides their number.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      split: at least one example.
      batch_size: examples at a time; it bounds memory and doesn't change the result. By default at
        most 1000, fewer if sequences are long or the network is wide.
      mesh: devices that share the work, see :func:`jaxrnn.train_epoch`.

    Returns:
      The :class:`jaxrnn.Metrics` of all examples; ``.means()`` divides them.

    Raises:
      ValueError: an empty split, a ``batch_size`` below 1, or arrays that don't fit each other.

    >>> import optax
    >>> from jaxrnn import RNNModel, create_train_state, load
    >>> test = load("mnist", split="test[:50]")
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNModel(), optax.adam(1e-3), test.inputs
    ... )
    >>> int(evaluate(state, test, batch_size=32).weight)
    50
    """
    check_examples(split)
    batch_size = _choose_batch_size(state, split) if batch_size is None else batch_size

    def measure_all(state: TrainState, split: Split) -> Metrics:
        whole, rest = _map_batches(partial(measure, state), split, batch_size, mesh)
        metrics = jax.tree.map(lambda sums: sum_over_devices(sums.sum(0), mesh), whole)
        return sum((one for one in (metrics, rest) if one is not None), Metrics.zero())

    return over_devices(measure_all, mesh)(state, split)


@partial(jax.jit, static_argnames="mesh")
def evaluate_block(state: TrainState, block: Batch, *, mesh: Mesh | None = None) -> Metrics:
    """Measure a state on some batches of a stream, as one XLA program.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      block: a batch with a leading axis of steps, from :meth:`jaxrnn.Stream.blocks`.
      mesh: devices that each have their part of every batch; None if each has all of it.
    """

    def measure_all(state: TrainState, block: Batch) -> Metrics:
        metrics = jax.lax.map(partial(measure, state), block)
        return jax.tree.map(lambda sums: sum_over_devices(sums.sum(0), mesh), metrics)

    return over_devices(measure_all, mesh, divided=1)(state, block)


def evaluate_stream(
    state: TrainState, stream: Stream, *, mesh: Mesh | None = None, classes: int | None = None
) -> Metrics:
    """Measure a state on a split that is read from disk as it is needed.

    Args:
      state: from :func:`jaxrnn.create_train_state`, or on all devices of ``mesh``.
      stream: from :func:`jaxrnn.stream`; one pass of it is measured.
      mesh: devices that share the work, from :func:`batch_mesh`; one by default.
      classes: raise ``ValueError`` for labels that are not below.

    Returns:
      The :class:`jaxrnn.Metrics` of all examples, on the host.

    Raises:
      ValueError: the stream leaves out examples, or a label is not below ``classes``.

    >>> import optax
    >>> from jaxrnn import RNNModel, Source, create_train_state, stream
    >>> test = stream(Source(split="test[:50]"), batch_size=20)
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNModel(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> int(evaluate_stream(state, test).weight)
    50
    """
    stream.check_whole()
    mesh = batch_mesh(stream.batch_size, 1) if mesh is None else mesh
    with contextlib.closing(stream.blocks(mesh, classes=classes)) as blocks:
        metrics: list[Metrics] = []
        for block in itertools.islice(blocks, stream.blocks_per_epoch):
            jax.block_until_ready(metrics[-2:-1])  # blocks that wait to be measured take memory
            metrics.append(evaluate_block(state, block, mesh=mesh_of(block, mesh)))
    return sum(map(to_host, metrics), Metrics.zero())


@partial(jax.jit, static_argnames="mesh")
def evaluate_each(states: TrainState, split: Split, *, mesh: Mesh | None = None) -> Metrics:
    """Measure N networks on a split, as one XLA program.

    Args:
      states: every array with a leading axis of N, as :func:`jaxrnn.fit` returns for N keys.
      split: at least one example.
      mesh: devices that share the networks; their number must divide N.

    Returns:
      :class:`jaxrnn.Metrics` of (N,) arrays.

    Raises:
      ValueError: as :func:`evaluate`.
    """
    return for_each_member(evaluate, states, split, mesh)


@compiled("batch_size")
def predict(state: TrainState, split: Split, *, batch_size: int | None = None) -> jax.Array:
    """Compute the outputs of the network for every example of a split, as one XLA program.

    In classification they are logits: ``.argmax(-1)`` gives the predicted classes, and
    ``jax.nn.softmax`` their probabilities.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      split: any number of examples; its labels or targets don't matter and may be missing.
      batch_size: examples at a time; it bounds memory and doesn't change the result. By default at
        most 1000, fewer if sequences are long or the network is wide.

    Returns:
      (N, width) or (N, time, width) outputs, in the order of the split.

    Raises:
      ValueError: a ``batch_size`` below 1, or arrays that don't fit each other.

    >>> import optax
    >>> from jaxrnn import RNNModel, create_train_state, load
    >>> test = load("mnist", split="test[:50]")
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNModel(), optax.adam(1e-3), test.inputs
    ... )
    >>> predict(state, test, batch_size=32).shape
    (50, 10)
    """
    check_examples(split)
    if not len(split):
        example = jax.tree.map(lambda array: jnp.zeros((1, *array.shape[1:]), array.dtype), split)
        return compute_outputs(state, take(example, np.arange(1)))[:0]
    batch_size = _choose_batch_size(state, split) if batch_size is None else batch_size
    whole, rest = _map_batches(partial(compute_outputs, state), split, batch_size)
    parts = [] if whole is None else [whole.reshape(-1, *whole.shape[2:])]
    return jnp.concatenate([*parts, *([] if rest is None else [rest])])


def _choose_batch_size(state: TrainState, split: Split) -> int:
    """At most 1000 examples, and as many as keep the states of a layer within 64 MiB."""
    width = max((leaf.shape[-1] for leaf in jax.tree.leaves(state.params) if leaf.ndim), default=1)
    return max(1, min(1000, _STATES // max(1, width * split.inputs.shape[1])))


def _map_batches(
    function: Callable[[Batch], Any], split: Split, batch_size: int, mesh: Mesh | None = None
) -> Any:
    """Apply a function to the whole batches, stacked, and to the short last one; None if none."""
    if batch_size < 1 or not len(split):
        raise ValueError(f"cannot evaluate {len(split)} examples in batches of {batch_size}")
    order = jnp.arange(len(split))
    devices = 1 if mesh is None else mesh.size
    batch_size = -(-batch_size // devices) * devices  # equal shares
    whole = len(split) // batch_size * batch_size
    results = None
    if whole:
        results = jax.lax.map(
            lambda indices: function(take(split, indices)),
            own_share(order[:whole].reshape(-1, batch_size), mesh),
        )
    return results, function(take(split, order[whole:])) if whole < len(split) else None
