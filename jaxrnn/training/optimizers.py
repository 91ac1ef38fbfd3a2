"""Adam and Muon: configurations of optax optimizers."""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from optax import contrib
from tyro.conf import Suppress

from jaxrnn.groups import Fraction, Group, NonNegative, Positive
from jaxrnn.nn.cells import is_lru_parameter, is_recurrent_kernel
from jaxrnn.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class _Optimizer(Group):
    """Options of all optimizers: schedule, clipping, weight decay and averaging."""

    learning_rate: Positive = 1e-3
    """Peak learning rate of Adam."""
    epsilon: Positive = 1e-7
    """Adam's epsilon; Keras uses 1e-7, TensorFlow 1e-8."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning-rate schedule; linear and cosine decay to 0 at the last step."""
    warmup: Fraction = 0.0
    """Fraction of the steps spent on linear warm-up."""
    clip_norm: Positive | None = None
    """Maximum global norm of the gradients; larger gradients are scaled down to it."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay, multiplied by the learning rate."""
    lru_factor: Positive = 0.5
    """LRU: factor of the learning rate of the recurrent parameters, which have no weight decay."""
    average: Fraction = 0.0
    """Decay of a moving average of the weights, which is what is evaluated; 0 for none."""

    @property
    def scheduled(self) -> bool:
        """Whether learning rates depend on the number of steps."""
        return self.schedule != "constant" or self.warmup > 0

    def build(self, steps: int | None = None) -> optax.GradientTransformation:
        r"""Build the optax transformation, the same object for equal configurations.

        They therefore share compiled functions. ``steps`` is the total number of training steps.

        Adam is used in TensorFlow's and Keras's convention,

        .. math:: \theta \leftarrow \theta - \eta\,
            \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}

        which is optax's Adam with an epsilon of :math:`\epsilon / \sqrt{1 - \beta_2^t}` at step t.

        Muon replaces the momentum of a matrix by a nearby one whose singular values are all about
        1. It updates the recurrent kernels alone: they are applied at every time step, so their
        largest singular values decide whether training on long sequences is stable.

        Raises:
          ValueError: a schedule or warm-up lacks ``steps``.

        References:
          D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization" (2015), the end of
          section 2, which gives both orders of computation.
          K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024).
          T. Boissin and others, "Turbo-Muon: accelerating orthogonality-based optimization with
          pre-conditioning" (2025).

        >>> Adam(learning_rate=1e-3).build() is Adam().build()
        True
        """
        if self.scheduled and steps is None:
            raise ValueError("a schedule or warm-up needs the number of steps of the training")
        return _build(self, steps if self.scheduled else None)

    def _update(self, steps: int | None) -> optax.GradientTransformation:
        raise NotImplementedError

    def _rate(self, peak: float, steps: int | None) -> optax.ScalarOrSchedule:
        """Return the schedule of a learning rate, which is constant without ``steps``."""
        if steps is None:
            return peak
        warmup_steps = round(self.warmup * steps)
        decay_steps = max(1, steps - warmup_steps)
        decay = {
            "constant": optax.constant_schedule(peak),
            "linear": optax.linear_schedule(peak, 0.0, decay_steps),
            "cosine": optax.cosine_decay_schedule(peak, decay_steps),
        }[self.schedule]
        if not warmup_steps:
            return decay
        warmup = optax.linear_schedule(0.0, peak, warmup_steps)
        return optax.join_schedules([warmup, decay], [warmup_steps])


@dataclass(frozen=True, kw_only=True)
class Adam(_Optimizer):
    """Adam in TensorFlow's convention: epsilon is added before bias correction."""

    kind: Suppress[Literal["adam"]] = "adam"

    def _update(self, steps: int | None) -> optax.GradientTransformation:
        adam = optax.inject_hyperparams(optax.adamw if self.weight_decay else optax.adam)
        decay = {"weight_decay": self.weight_decay} if self.weight_decay else {}

        def eps(count: chex.Array) -> chex.Array:
            return self.epsilon / jnp.sqrt(1 - 0.999 ** (count.astype(jnp.float32) + 1.0))

        return adam(self._rate(self.learning_rate, steps), b1=0.9, b2=0.999, eps=eps, **decay)


@dataclass(frozen=True, kw_only=True)
class Muon(_Optimizer):
    """Muon for the recurrent kernels; optax's Adam, with Nesterov momentum, for all others."""

    kind: Suppress[Literal["muon"]] = "muon"
    muon_learning_rate: Positive = 5e-3
    """Peak learning rate of Muon."""

    def _update(self, steps: int | None) -> optax.GradientTransformation:
        return contrib.muon(
            self._rate(self.muon_learning_rate, steps),
            weight_decay=self.weight_decay,
            adam_weight_decay=self.weight_decay,
            adam_learning_rate=self._rate(self.learning_rate, steps),
            eps=self.epsilon,
            muon_weight_dimension_numbers=_recurrent_kernels,
            # For a 150 × 150 kernel, Newton–Schulz iterations take a quarter of a step's time.
            # Rescaling its rows and columns first replaces one of the usual five.
            preconditioning="aol",
            ns_steps=4,
        )


@functools.lru_cache  # functions are compiled for one optimizer object
def _build(optimizer: _Optimizer, steps: int | None) -> optax.GradientTransformation:
    parts = [_scale_lru(optimizer._update(steps), optimizer.lru_factor)]
    if optimizer.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(optimizer.clip_norm))
    if optimizer.average:
        parts.append(_keep_average(optimizer.average))
    return _with_promotion(optax.chain(*parts) if len(parts) > 1 else parts[0])


def _with_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Make an optimizer independent of JAX's settings for dtypes.

    optax mixes dtypes, which ``jax_numpy_dtype_promotion="strict"`` forbids; and its constants
    would be float64 with ``jax_enable_x64``, unlike those of stored runs.
    """

    def init(params: chex.ArrayTree) -> chex.ArrayTree:
        state = optimizer.init(params)
        if any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(params)):
            return state
        return jax.tree.map(_single, state)

    def update(updates, state, params=None):  # type: ignore[no-untyped-def]
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(init, update)


def _single(leaf: chex.Array) -> chex.Array:
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf


def _recurrent_kernels(params: chex.ArrayTree) -> chex.ArrayTree:
    """Select the parameters for Muon."""
    matrix = contrib.MuonDimensionNumbers()
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: matrix if leaf.ndim == 2 and is_recurrent_kernel(path, leaf) else None,
        params,
    )


def _scale_lru(
    optimizer: optax.GradientTransformation, factor: float
) -> optax.GradientTransformation:
    """Scale the updates of the recurrent parameters of linear recurrent units.

    The optimizer sees these parameters as 0, which turns off weight decay, the only use that it
    makes of parameters. Its state is unchanged.
    """

    def scaled(factor: float, tree: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: factor * leaf if is_lru_parameter(path) else leaf, tree
        )

    def update(updates, state, params=None):  # type: ignore[no-untyped-def]
        updates, state = optimizer.update(updates, state, scaled(0.0, params))
        return scaled(factor, updates), state

    return optax.GradientTransformation(optimizer.init, update)


class _Average(NamedTuple):
    steps: chex.Array
    average: chex.ArrayTree


def _keep_average(decay: float) -> optax.GradientTransformation:
    """Keep a moving average of the parameters; last in a chain, it leaves updates unchanged."""

    def init(params: chex.ArrayTree) -> _Average:
        return _Average(jnp.zeros((), jnp.int32), params)

    def update(updates, state, params=None):  # type: ignore[no-untyped-def]
        # A shorter memory in the first steps, so that the initial parameters are soon forgotten.
        new_share = jnp.maximum(1 - decay, 10.0 / (state.steps.astype(jnp.float32) + 11.0))
        new_params = optax.apply_updates(params, updates)
        average = optax.incremental_update(new_params, state.average, new_share)
        return updates, _Average(state.steps + 1, average)

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> TrainState:
    """Replace the parameters by their average, if the optimizer keeps one.

    Evaluate and predict with the result; continue training from ``state`` itself.
    """
    kinds = _Average, contrib.ScheduleFreeState
    for part in jax.tree.leaves(state.opt_state, is_leaf=lambda part: isinstance(part, kinds)):
        if isinstance(part, _Average):
            return state.replace(params=part.average)
        if isinstance(part, contrib.ScheduleFreeState):
            params = contrib.schedule_free_eval_params(part, state.params)
            return state.replace(params=params)
    return state
