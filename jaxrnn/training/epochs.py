"""train_step and train_epoch: one optimizer step, and an epoch of them as one XLA program."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrnn.compiled import compiled
from jaxrnn.data.batches import as_key, check_batch_size, epoch_indices, mask_padding
from jaxrnn.data.splits import Batch, Split, check_examples, scale, take
from jaxrnn.training.forward import measure
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import over_devices, own_share, sum_over_devices
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import StepOptions, step

Augment = Callable[[jax.Array, jax.Array], jax.Array]


@jax.jit
def train_step(
    state: TrainState, batch: Batch, key: jax.Array | None = None
) -> tuple[TrainState, Metrics]:
    """One optimizer step on the mean loss of a batch.

    Pure: ``state`` is left as it was and may be used again.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      batch: ``inputs`` (batch, time, features) uint8 or float, or (batch, time) tokens; what the
        task compares with, ``labels`` or ``targets``; and optionally ``lengths`` (batch,).
      key: determines, together with ``state.step``, what dropout drops; needed if there is dropout.
        It may be the same in every step.

    Returns:
      The next state, and the :class:`jaxrnn.Metrics` of the batch under the parameters before the
      step. The loss is NaN if a label or a length is out of range.

    Raises:
      ValueError: the arrays of the batch, or the outputs of the model, don't fit each other.

    >>> import optax
    >>> from jaxrnn import RNNModel, create_train_state
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNModel(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> batch = {"inputs": jnp.zeros((3, 28, 28)), "labels": jnp.array([1, 2, 3])}
    >>> new_state, metrics = train_step(state, batch)
    >>> int(new_state.step), int(state.step), int(metrics.weight)
    (1, 0, 3)
    """
    check_examples(batch)
    return step(state, batch, None if key is None else as_key(key), None)


Report = Literal["epoch", "steps", "last_batch"]


@compiled("batch_size", "drop_remainder", "augment", "report", "mesh", "options")
def train_epoch(
    state: TrainState,
    split: Split,
    key: jax.Array,
    *,
    batch_size: int,
    drop_remainder: bool = False,
    augment: Augment | None = None,
    report: Report = "epoch",
    mesh: Mesh | None = None,
    part: tuple[Any, Any] | None = None,
    options: StepOptions = StepOptions(),  # noqa: B008
) -> tuple[TrainState, Metrics]:
    """One pass over a split in random order, as one XLA program.

    Pure, and to float rounding the same as :func:`train_step` over :func:`jaxrnn.batches` of the
    same key, on any number of devices.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      split: on the device already (``jax.device_put``), or it is copied there at every call.
      key: determines the order, the augmentation and, as in ``train_step``, the dropout of this
        epoch.
      batch_size: examples per step.
      drop_remainder: train on whole batches only; otherwise the last step takes the short batch
        that is left over.
      augment: changes each example before it is trained on: a function of a key and the example's
        inputs, (time, features) floats, such as :meth:`jaxrnn.WarpConfig.build` returns.
      report: which metrics to return. ``epoch``: those of all steps, each measured before its
        update. ``steps``: the same for each step, as (steps,) arrays. ``last_batch``: those of the
        last batch, neither augmented nor smoothed, after its own update.
      mesh: devices that share each batch, from :func:`batch_mesh`; state and split
        must be replicated over them. One device by default.
      part: (start, stop), to take only these steps of the epoch, counted from 0; others report
        metrics of 0. Parts that follow each other give the bits of the whole epoch, and compile
        once, if start and stop are integers of numpy or JAX.
      options: gradient accumulation and truncated backpropagation, see
        :class:`jaxrnn.training.StepOptions`.

    Returns:
      The state after the epoch, and its :class:`jaxrnn.Metrics`.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples, or the arrays of the
        split don't fit each other.
    """
    check_examples(split)
    check_batch_size(batch_size, split)
    key = as_key(key)

    def epoch(
        state: TrainState, split: Split, key: jax.Array, part: Any
    ) -> tuple[TrainState, Metrics]:
        whole, rest = epoch_indices(
            key, len(split), batch_size=batch_size, drop_remainder=drop_remainder
        )

        def one(state: TrainState, indices: jax.Array, mesh: Mesh | None) -> Any:
            batch = take(split, indices)
            if augment:
                batch = augmented(augment, batch, indices, key)
            return step(state, batch, key, mesh, options)

        start, stop = (0, len(whole) + 1) if part is None else part
        share = own_share(whole, mesh)
        state, metrics = _scan(partial(one, mesh=mesh), state, share, start, stop)
        metrics = jax.tree.map(lambda sums: sum_over_devices(sums, mesh), metrics)
        if len(rest):  # may not divide among the devices: each of them takes all of it
            start, stop = start - len(whole), stop - len(whole)
            state, last = _scan(partial(one, mesh=None), state, rest[None], start, stop)
            metrics = jax.tree.map(lambda *sums: jnp.concatenate(sums), metrics, last)
        if report == "epoch":
            metrics = jax.tree.map(lambda sums: sums.sum(0), metrics)
        if report == "last_batch":
            metrics = measure(state, take(split, rest if len(rest) else whole[-1]))
        return state, metrics

    return over_devices(epoch, mesh)(state, split, key, part)


def _scan(step: Any, state: TrainState, batches: jax.Array, start: Any, stop: Any) -> Any:
    """``jax.lax.scan`` over ``batches[start:stop]``; other batches have metrics of 0."""
    clip = np.clip if isinstance(stop, int) else jnp.clip  # static bounds are differentiable
    first, last = (clip(edge, 0, len(batches)) for edge in (start, stop))
    shapes = jax.eval_shape(step, state, batches[0])[1]
    metrics = jax.tree.map(lambda one: jnp.zeros((len(batches), *one.shape), one.dtype), shapes)

    def body(index: jax.Array, carry: Any) -> Any:
        state, metrics = carry
        state, one = step(state, batches[index])
        return state, jax.tree.map(lambda all, new: all.at[index].set(new), metrics, one)

    return jax.lax.fori_loop(first, last, body, (state, metrics))


@partial(jax.jit, static_argnames=("augment", "mesh", "options"))
def train_block(
    state: TrainState,
    block: Batch,
    key: jax.Array,
    *,
    augment: Augment | None = None,
    mesh: Mesh | None = None,
    options: StepOptions = StepOptions(),  # noqa: B008
) -> tuple[TrainState, Metrics]:
    """Some steps of an epoch, as one XLA program: a part of what :func:`train_epoch` does.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      block: a batch with a leading axis of steps, and ``places`` (steps, batch), the position of
        each example in its source; from :meth:`jaxrnn.data.Stream.blocks`.
      key: of this epoch, see :func:`train_epoch`.
      augment: see :func:`train_epoch`.
      mesh: devices that each have their part of every batch; None if each has all of it.
      options: see :func:`train_epoch`.

    Returns:
      The state after these steps, and the :class:`jaxrnn.Metrics` of each, (steps,) arrays.
    """

    def steps(state: TrainState, block: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            if augment:
                batch = augmented(augment, batch, batch["places"], key)
            batch = {name: array for name, array in batch.items() if name != "places"}
            return step(state, batch, key, mesh, options)

        state, metrics = jax.lax.scan(one, state, block)
        return state, jax.tree.map(lambda sums: sum_over_devices(sums, mesh), metrics)

    return over_devices(steps, mesh, divided=1)(state, block, key)


def augmented(augment: Augment, batch: Batch, places: jax.Array, key: jax.Array) -> Batch:
    """A batch with its inputs changed: each by a key of its place in the split and the epoch's key.

    So the result is the same on any number of devices.
    """
    # Not one of the keys that permutation derives from the epoch's key for the order: those are
    # split(key) and what follows from them, and split is fold_in of 0, 1, …
    key = jax.random.fold_in(key, 0x77617270)  # "warp"
    batch = mask_padding(batch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    inputs = scale(batch["inputs"])
    return {**batch, "inputs": jax.vmap(augment)(keys, inputs).astype(inputs.dtype)}
