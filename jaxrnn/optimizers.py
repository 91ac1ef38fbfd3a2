"""make_optimizer: the optimizers of the experiments, described by plain numbers."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from optax import contrib

SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adam", "muon")


def make_optimizer(
    *,
    learning_rate: float = 1e-3,
    epsilon: float = 1e-7,
    optimizer: str = "adam",
    muon_learning_rate: float = 5e-3,
    schedule: str = "constant",
    warmup: float = 0.0,
    steps: int | None = None,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    average: float = 0.0,
) -> optax.GradientTransformation:
    r"""Adam or Muon, with a schedule, clipping, decay and averaging, all from optax but the last.

    ``adam`` is Adam as TensorFlow and Keras have it, whose ε is added before the bias is corrected,

    .. math:: \theta \leftarrow \theta - \eta\,
        \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}

    which is optax's Adam with an ε of :math:`\epsilon / \sqrt{1 - \beta_2^t}` at step t.

    ``muon`` updates the recurrent kernels, and them alone, by their momentum with all its singular
    values brought to about 1; the rest by Adam with Nesterov's momentum. A recurrent kernel is
    applied at every time step, so that what a step does to its largest directions decides whether
    long runs stay stable.

    Args:
      learning_rate: η of Adam, at its highest.
      epsilon: ε; Keras's own is 1e-7, TensorFlow's 1e-8.
      optimizer: ``adam`` or ``muon``.
      muon_learning_rate: of the recurrent kernels under ``muon``, at its highest.
      schedule: ``constant``, or a ``linear`` or ``cosine`` fall to 0 at the last step.
      warmup: share of ``steps`` in which the rate rises linearly from 0.
      steps: of the whole training; needed by a schedule or a warm-up.
      clip_norm: gradients with a larger global norm are scaled down to it.
      weight_decay: decoupled, times the learning rate.
      average: decay of an exponential moving average of the parameters, see
        :func:`averaged`; 0 for none.

    Returns:
      An optax gradient transformation: for equal arguments the same object, so that functions
      compiled for one are compiled for all.

    Raises:
      ValueError: an unknown optimizer or schedule, or one that lacks ``steps``.

    Source: D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization" (2015), the end of
    section 2, where the two orders of computation are given; K. Jordan and others, "Muon: an
    optimizer for hidden layers in neural networks" (2024); T. Boissin and others, "Turbo-Muon:
    accelerating orthogonality-based optimization with pre-conditioning" (2025).

    >>> make_optimizer(learning_rate=1e-3) is make_optimizer()
    True
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}")
    return _make_optimizer(
        learning_rate,
        epsilon,
        optimizer,
        muon_learning_rate,
        schedule,
        warmup,
        steps,
        clip_norm,
        weight_decay,
        average,
    )


@functools.lru_cache  # what is compiled is compiled for one optimizer object
def _make_optimizer(
    learning_rate: float,
    epsilon: float,
    optimizer: str,
    muon_learning_rate: float,
    schedule: str,
    warmup: float,
    steps: int | None,
    clip_norm: float | None,
    weight_decay: float,
    average: float,
) -> optax.GradientTransformation:
    adam_rate, muon_rate = (
        _make_schedule(rate, schedule, warmup, steps)
        for rate in (learning_rate, muon_learning_rate)
    )
    if optimizer == "muon":
        update = contrib.muon(
            muon_rate,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            adam_learning_rate=adam_rate,
            eps=epsilon,
            muon_weight_dimension_numbers=_recurrent_kernels,
            # On 150 × 150 a step's Newton–Schulz products cost a quarter of its time. Scaling rows
            # and columns first does the work of one of the five iterations.
            preconditioning="aol",
            ns_steps=4,
        )
    else:
        adam = optax.inject_hyperparams(optax.adamw if weight_decay else optax.adam)
        update = adam(
            adam_rate,
            b1=0.9,
            b2=0.999,
            eps=lambda count: epsilon / jnp.sqrt(1 - 0.999 ** (count + 1.0)),
            **({"weight_decay": weight_decay} if weight_decay else {}),
        )
    clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    keep = [_keep_average(average)] if average else []
    return optax.chain(*clip, update, *keep) if clip or keep else update


def _make_schedule(peak: float, schedule: str, warmup: float, steps: int | None) -> Any:
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}")
    if schedule == "constant" and not warmup:
        return peak
    if steps is None:
        raise ValueError("a schedule needs to know the steps of the whole training")
    rising = round(warmup * steps)
    falling = max(1, steps - rising)
    then = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, falling),
        "cosine": optax.cosine_decay_schedule(peak, falling),
    }[schedule]
    if not rising:
        return then
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rising), then], [rising])


def _recurrent_kernels(params: Any) -> Any:
    """Which parameters Muon updates: Flax's cells call what they apply to the state ``h…``."""

    def is_recurrent(path: Any, leaf: jax.Array) -> Any:
        names = [getattr(part, "key", "") for part in path]
        recurrent = leaf.ndim == 2 and len(names) > 1 and names[-2].startswith("h")
        return contrib.MuonDimensionNumbers() if recurrent and names[0] != "head" else None

    return jax.tree_util.tree_map_with_path(is_recurrent, params)


class _Average(NamedTuple):
    steps: jax.Array
    average: Any


def _keep_average(decay: float) -> optax.GradientTransformation:
    """Last in a chain: changes no update, and keeps a moving average of what comes of them."""

    def init(params: Any) -> _Average:
        return _Average(jnp.zeros((), jnp.int32), params)

    def update(updates: Any, state: _Average, params: Any = None) -> tuple[Any, _Average]:
        # A shorter memory in the first steps: what was there at the start is forgotten sooner.
        new_share = jnp.maximum(1 - decay, 10.0 / (state.steps + 11.0))
        new_params = optax.apply_updates(params, updates)
        average = optax.incremental_update(new_params, state.average, new_share)
        return updates, _Average(state.steps + 1, average)

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> TrainState:
    """The state with the average of its parameters in their place, if its optimizer keeps one.

    It is what to evaluate and to predict with; training goes on from ``state`` itself.
    """
    found = [
        part
        for part in jax.tree.leaves(
            state.opt_state, is_leaf=lambda part: isinstance(part, _Average)
        )
        if isinstance(part, _Average)
    ]
    return state.replace(params=found[0].average) if found else state
