"""TrainState, train_step, train_epoch: the functional heart."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.training.train_state import TrainState
from jax.sharding import Mesh

from jaxrnn.data import (
    Batch,
    Split,
    check_batch_size,
    check_examples,
    epoch_indices,
    scale,
    take,
)
from jaxrnn.parallel import over_devices, own_share, sum_over_devices

Augment = Callable[[jax.Array, jax.Array], jax.Array]


@struct.dataclass
class Metrics:
    """Sums over examples, which add up across batches, devices and hosts without a mean of means.

    Attributes:
      loss_sum: float32, cross entropy in nats, summed over examples.
      correct: int32, examples whose largest logit is that of their label.
      count: int32, examples.

    >>> total = Metrics(2.0, 3, 4) + Metrics(1.0, 1, 2)
    >>> total.loss, round(total.accuracy, 4)
    (0.5, 0.6667)
    """

    loss_sum: Any
    correct: Any
    count: Any

    @classmethod
    def zero(cls) -> "Metrics":
        """No examples yet: where a sum starts."""
        return cls(0.0, 0, 0)

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(lambda a, b: a + b, self, other)

    @property
    def loss(self) -> Any:
        """Mean cross entropy, in nats."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> Any:
        """Share of the examples that are classified correctly, 0 … 1."""
        return self.correct / self.count


def create_train_state(
    key: jax.Array,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    example: Any,
) -> TrainState:
    """Initial parameters and optimizer state, at step 0.

    Args:
      key: of the initial parameters.
      model: a Flax linen module, (batch, time, features) → logits (batch, classes).
      optimizer: any optax gradient transformation. Make it once and keep it: functions are compiled
        for the very object, and another one, though equal, has them compiled again.
      example: inputs of the shape to be trained on, (batch, time, features); only time and features
        matter.

    Returns:
      A ``flax.training.train_state.TrainState``.

    >>> from jaxrnn import RNNClassifier
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNClassifier(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> int(state.step)
    0
    """
    inputs = jnp.zeros((1, *jnp.shape(example)[1:]), jnp.float32)
    if isinstance(key, jax.core.Tracer):  # inside the caller's own jit or vmap
        init: Any = _init
    elif jax.default_backend() == "cpu":
        init = _init_on_cpu
    else:
        init = _init_compiled
    params, opt_state = init(model, optimizer, key, inputs)
    return TrainState(
        # An array: from a Python integer, whose type differs from that of every later step, the
        # second call of a jitted function would compile again.
        step=jnp.zeros((), jnp.int32),
        apply_fn=_apply_fn(model),
        params=params,
        tx=optimizer,
        opt_state=opt_state,
    )


def _init(
    model: nn.Module, optimizer: optax.GradientTransformation, key: jax.Array, inputs: jax.Array
) -> tuple[Any, Any]:
    params = model.init(key, inputs)["params"]
    return params, optimizer.init(params)


_init_compiled = jax.jit(_init, static_argnums=(0, 1))
# It runs once, and LLVM would spend two seconds on making it run fast.
_init_on_cpu = jax.jit(
    _init, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0}
)


@lru_cache
def _apply_fn(model: nn.Module) -> Any:
    """One bound method for equal models, so that their states share compiled functions."""
    return model.apply


@jax.jit
def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One optimizer step on the mean cross entropy of a batch.

    Pure: ``state`` is left as it was and may be used again.

    Args:
      state: from :func:`create_train_state`.
      batch: ``inputs`` (batch, time, features) uint8 or float, ``labels`` (batch,) integers, and
        optionally ``lengths`` (batch,).

    Returns:
      The next state, and the :class:`Metrics` of the batch under the parameters before the step.

    Raises:
      ValueError: the arrays of the batch do not fit each other.

    >>> from jaxrnn import RNNClassifier
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNClassifier(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> batch = {"inputs": jnp.zeros((3, 28, 28)), "labels": jnp.array([1, 2, 3])}
    >>> new_state, metrics = train_step(state, batch)
    >>> int(new_state.step), int(state.step), int(metrics.count)
    (1, 0, 3)
    """
    grads, metrics = _gradients(state, batch, len(batch["labels"]), 0.0)
    return state.apply_gradients(grads=grads), metrics


def _gradients(
    state: TrainState, batch: Batch, batch_size: int, label_smoothing: float
) -> tuple[Any, Metrics]:
    """Of the summed loss over ``batch_size``: a share of a batch gives its share of them."""

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        metrics = measure(state.replace(params=params), batch, label_smoothing=label_smoothing)
        return metrics.loss_sum / batch_size, metrics

    return jax.grad(loss_fn, has_aux=True)(state.params)


def measure(state: TrainState, batch: Batch, *, label_smoothing: float = 0.0) -> Metrics:
    r"""The :class:`Metrics` of a state on one batch, differentiable in ``state.params``.

    .. math:: \mathrm{loss\_sum} = -\sum_n \sum_c p_{nc} \log \mathrm{softmax}(\mathrm{logits}_n)_c

    with :math:`p_n` 1 for the label and 0 elsewhere, or, smoothed by :math:`\alpha`,
    :math:`1 - \alpha` for the label and :math:`\alpha` shared by all classes.

    Args:
      state: from :func:`create_train_state`.
      batch: ``inputs`` (batch, time, features) uint8 or float, ``labels`` (batch,) integers, and
        optionally ``lengths`` (batch,).
      label_smoothing: α.

    Raises:
      ValueError: the arrays of the batch do not fit each other.
    """
    check_examples(batch)
    labels = jnp.asarray(batch["labels"])
    logits = compute_logits(state, batch)
    chex.assert_shape(logits, (len(labels), None))
    if label_smoothing:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
        losses = optax.softmax_cross_entropy(logits=logits, labels=targets)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits=logits, labels=labels)
    return Metrics(
        loss_sum=losses.sum(),
        correct=(logits.argmax(-1) == labels).sum(dtype=jnp.int32),
        count=jnp.int32(len(labels)),
    )


def compute_logits(state: TrainState, batch: Batch) -> jax.Array:
    """What the network makes of ``inputs`` and ``lengths`` of a batch: (batch, classes) logits."""
    lengths = (jnp.asarray(batch["lengths"]),) if "lengths" in batch else ()
    return state.apply_fn({"params": state.params}, scale(jnp.asarray(batch["inputs"])), *lengths)


@partial(
    jax.jit,
    static_argnames=(
        *("batch_size", "drop_remainder", "augment", "label_smoothing", "per_step", "mesh"),
    ),
)
def train_epoch(
    state: TrainState,
    split: Split,
    key: jax.Array,
    *,
    batch_size: int,
    drop_remainder: bool = False,
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
    per_step: bool = False,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """One pass over a split in random order, as one XLA program.

    Pure, and to float rounding the same as :func:`train_step` over :func:`jaxrnn.batches` of the
    same key, on any number of devices.

    Args:
      state: from :func:`create_train_state`.
      split: on the device already (``jax.device_put``), or it is copied there at every call.
      key: of this epoch's order and augmentation.
      batch_size: examples a step.
      drop_remainder: whole batches only; otherwise the last step takes the short batch left over.
      augment: changes each example before it is trained on: a function of a key of the example's
        own and its inputs, (time, features) floats, such as :func:`jaxrnn.random_warp` makes.
      label_smoothing: see :func:`measure`.
      per_step: return the metrics of each step, (steps,) arrays, instead of their sum.
      mesh: devices that share each batch, from :func:`jaxrnn.parallel.batch_mesh`; state and split
        are to be replicated over them. ``None`` for one.

    Returns:
      The state after the epoch, and the sum of its steps' :class:`Metrics`.

    Raises:
      ValueError: ``batch_size`` is not between 1 and the number of examples, or the arrays of the
        split do not fit each other.
    """
    check_examples(split)
    check_batch_size(batch_size, split)

    def epoch(state: TrainState, split: Split, key: jax.Array) -> tuple[TrainState, Metrics]:
        whole, rest = epoch_indices(
            key, len(split), batch_size=batch_size, drop_remainder=drop_remainder
        )

        def step(
            state: TrainState, indices: jax.Array, size: int, mesh: Mesh | None
        ) -> tuple[TrainState, Metrics]:
            batch = take(split, indices)
            if augment:
                batch = augmented(augment, batch, indices, key)
            return _step(state, batch, size, label_smoothing, mesh)

        state, metrics = jax.lax.scan(
            lambda state, indices: step(state, indices, batch_size, mesh),
            state,
            own_share(whole, mesh),
        )
        if not per_step:
            metrics = jax.tree.map(lambda sums: sums.sum(0), metrics)
        metrics = jax.tree.map(lambda sums: sum_over_devices(sums, mesh), metrics)
        if len(rest):  # may not divide by the devices: each of them takes all of it
            state, last = step(state, rest, len(rest), None)
            metrics = jax.tree.map(jnp.append, metrics, last) if per_step else metrics + last
        return state, metrics

    return over_devices(epoch, mesh)(state, split, key)


@partial(jax.jit, static_argnames=("augment", "label_smoothing", "mesh"))
def train_block(
    state: TrainState,
    block: Batch,
    key: jax.Array,
    *,
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """Some steps of an epoch, as one XLA program: what :func:`train_epoch` does, part by part.

    Args:
      state: from :func:`create_train_state`.
      block: a batch with a leading axis of steps, and ``places`` (steps, batch), where each example
        is in its source; from :meth:`jaxrnn.Stream.blocks`.
      key: of this epoch, see :func:`train_epoch`.
      augment, label_smoothing: see :func:`train_epoch`.
      mesh: devices that each have their part of every batch; None where each has all of it.

    Returns:
      The state after these steps, and the :class:`Metrics` of each, (steps,) arrays.
    """
    batch_size = block["labels"].shape[1]

    def steps(state: TrainState, block: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            if augment:
                batch = augmented(augment, batch, batch["places"], key)
            return _step(state, batch, batch_size, label_smoothing, mesh)

        state, metrics = jax.lax.scan(step, state, block)
        return state, jax.tree.map(lambda sums: sum_over_devices(sums, mesh), metrics)

    return over_devices(steps, mesh, divided=1)(state, block, key)


def _step(
    state: TrainState, batch: Batch, size: int, label_smoothing: float, mesh: Mesh | None
) -> tuple[TrainState, Metrics]:
    """On this device's share of a batch of ``size``."""
    grads, metrics = _gradients(state, batch, size, label_smoothing)
    return state.apply_gradients(grads=sum_over_devices(grads, mesh)), metrics


def augmented(augment: Augment, batch: Batch, places: jax.Array, key: jax.Array) -> Batch:
    """A batch with its inputs changed: each by a key of its place in the split and the epoch's key.

    So the result is the same on any number of devices.
    """
    # Not one of the keys that permutation derives from the epoch's key for the order: those are
    # split(key) and what follows from them, and split is fold_in of 0, 1, …
    key = jax.random.fold_in(key, 0x77617270)  # "warp"
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return {**batch, "inputs": jax.vmap(augment)(keys, scale(batch["inputs"]))}
