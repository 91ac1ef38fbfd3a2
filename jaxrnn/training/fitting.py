"""fit: the epoch loop that ties training, evaluation and history together."""

import contextlib
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import jax
import numpy as np
from annotated_types import Ge, Lt

from jaxrnn.data.splits import Split
from jaxrnn.data.streams import Stream
from jaxrnn.groups import Count, Group
from jaxrnn.training.checks import check_fits, data_order, past_epochs
from jaxrnn.training.clock import Clock
from jaxrnn.training.epochs import Augment
from jaxrnn.training.history import History, mean_history
from jaxrnn.training.loops import ResidentEpochs, StreamedEpochs, compile_all, evaluation_of
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import in_any_process, place, to_host
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import StepOptions


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Group):
    """The training loop."""

    epochs: Count = 5
    """Number of epochs."""
    batch_size: Count = 150
    """Examples in each optimizer step."""
    drop_remainder: bool = False
    """Train on whole batches only, leaving out the examples that don't fill one."""
    steps_per_epoch: Count | None = None
    """When streaming: number of steps after which to evaluate and save; None for a whole pass."""
    train_curve: Literal["epoch", "last_batch"] = "epoch"
    """Training curve: the mean over the steps of the epoch, or its last batch after its update."""
    accumulate: Count = 1
    """Gradient accumulation: number of parts in which the gradient of a batch is computed, to save
    memory."""
    truncate: Count | None = None
    """Truncated backpropagation: train on longer sequences in chunks of this many time steps, each
    with an update, carrying the state from one to the next; None for whole sequences."""
    patience: Count | None = None
    """Early stopping: stop after this many epochs without improvement, and keep the best one; None
    for no early stopping."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Determines initial weights and data order; results repeat on the same devices."""
    seeds: Count = 1
    """Number of networks to train at once, with consecutive seeds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed + self.seeds > 2**32:
            raise ValueError(f"--seed must be at most {2**32 - self.seeds}; got {self.seed}")


class NonFiniteLossError(ArithmeticError):
    """The loss or a parameter became infinite or not a number.

    Attributes:
      epoch: in which epoch, from 1.
      step: the first step of that epoch whose loss is not finite, from 1.
    """

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss is not finite from epoch {epoch}, step {step} on")
        self.epoch, self.step = epoch, step


@dataclass(frozen=True)
class Record:
    """What :func:`fit` passes to every hook after an epoch.

    Attributes:
      state: the state after the epoch; of N networks, with a leading axis of N.
      history: the curves so far; of N networks, a tuple of N.
      key: root of the data order.
      examples: number of examples trained on in this epoch, of all networks.
      seconds: seconds spent by ``fit`` so far, by phase.
    """

    state: TrainState
    history: Any
    key: jax.Array
    examples: int
    seconds: Mapping[str, float]

    @property
    def mean(self) -> History:
        """The history; of several networks, its mean."""
        return mean_history(self.history)


Hook = Callable[[Record], Any]
"""Called after each epoch. If it has a method ``during(epoch, fraction)``, that is called while
an epoch is trained, with its number and the fraction of it that is done."""


def fit(
    state: TrainState,
    train: Split | Stream,
    *,
    epochs: int,
    key: jax.Array | None = None,
    batch_size: int | None = None,
    drop_remainder: bool = False,
    train_curve: Literal["epoch", "last_batch"] = "epoch",
    evals: Mapping[str, Split | Stream] | None = None,
    augment: Augment | None = None,
    history: Any = None,
    hooks: Sequence[Hook] = (),
    devices: int | None = None,
    step_options: StepOptions = StepOptions(),  # noqa: B008
) -> tuple[TrainState, Any]:
    """Train for some epochs, and evaluate and record after each.

    The data order of an epoch depends on ``fold_in(key, epoch)`` alone, for splits and for streams,
    so a run that continues from ``history`` sees the very batches that come next. If the optimizer
    keeps an average of the parameters, the average is what is evaluated.

    Many networks train at once if ``key`` is an array of N keys and every array of ``state`` has a
    leading axis of N. To float rounding, each comes out as if trained alone on one device. The
    devices share the networks instead of the batch.

    With several processes, all of them call this with the same arguments. The devices of all
    processes share the batches.

    Args:
      state: from :func:`jaxrnn.create_train_state`; left as it was.
      train: what to train on. A split is put on the devices once. A :func:`jaxrnn.stream` is read
        as it is needed, for one network.
      epochs: number of epochs in total, those of ``history`` included.
      key: root of the data order, or N of them. A stream has its own.
      batch_size: examples per step. A stream has its own.
      drop_remainder: train on whole batches only, see :func:`jaxrnn.train_epoch`.
      train_curve: what the training columns contain. ``epoch``: the mean over the steps of the
        epoch, each measured before its update, as in Keras. ``last_batch``: the last batch of the
        epoch, measured after its own update.
      evals: splits to evaluate after every epoch, by name. A stream is read again each time.
      augment: see :func:`jaxrnn.train_epoch`.
      history: the epochs that ``state`` was trained for; they are kept and not repeated.
      hooks: functions that are called with a :class:`Record` after each epoch, in this order, such
        as :class:`jaxrnn.Checkpoints` and :class:`Progress`. Training stops after the epoch
        for which one of them returns true.
      devices: number of devices that share each batch; by default as many as divide it, but one on
        a CPU if a layer has 512 or more recurrent units. The result is the same to float rounding.
      step_options: gradient accumulation and truncated backpropagation through time.

    Returns:
      The trained state, and the :class:`jaxrnn.History` of all epochs; of N networks, a tuple of N.

    Raises:
      ValueError: ``epochs`` below 1; no ``key``, or one that is not the stream's; a ``batch_size``
        that is not between 1 and the number of examples or doesn't divide among the processes; a
        model, task and splits that don't fit each other; a history that lacks an epoch.
      NonFiniteLossError: the loss or a parameter is infinite or not a number. Hooks are not called
        for such an epoch.

    >>> import optax
    >>> from jaxrnn import RNNModel, create_train_state, load
    >>> train = load("mnist", split="train[:100]")
    >>> init_key, data_key = jax.random.split(jax.random.key(0))
    >>> state = create_train_state(init_key, RNNModel(), optax.adam(1e-3), train.inputs)
    >>> state, history = fit(state, train, key=data_key, epochs=2, batch_size=50)
    >>> int(state.step), len(history), history.measured("train_loss")
    (4, 2, True)
    """
    epochs = operator.index(epochs)
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1; got {epochs}")
    if train_curve not in ("epoch", "last_batch"):
        raise ValueError(f"train_curve must be epoch or last_batch; got {train_curve!r}")
    key, batch_size = data_order(train, key, batch_size, drop_remainder)
    histories = past_epochs(key, history)
    many, networks, done = key.ndim > 0, max(1, key.size), len(histories[0])
    first = jax.tree.map(lambda leaf: leaf[0], state) if many else state
    evals = dict(evals or {})
    if any(name == "train" or not name.isidentifier() for name in evals):
        raise ValueError(f"evals must be named by identifiers other than train; got {[*evals]}")
    outputs = {name: check_fits(first, on, many) for name, on in {"train": train, **evals}.items()}

    mesh, state, keys = place(state, key, batch_size, devices)
    options: dict[str, Any] = {"mesh": mesh, "augment": augment, "options": step_options}
    if isinstance(train, Stream):
        where = {"epoch": done + 1, "classes": outputs["train"]}
        training: Any = StreamedEpochs(train, options, train_curve, **where)
    else:
        options |= {"batch_size": batch_size, "drop_remainder": drop_remainder}
        training = ResidentEpochs(train, options, train_curve, many=many)
    clock = Clock()
    with contextlib.closing(training):
        evaluations: dict[str, Any] = {
            name: evaluation_of(on, mesh, many=many, classes=outputs[name])
            for name, on in evals.items()
        }
        if done < epochs:
            with clock("compilation"):
                evaluated = (one.lower(state) for one in evaluations.values())
                compile_all(itertools.chain(training.lower(state, _fold_in(keys, 1)), *evaluated))
        for epoch in range(done + 1, epochs + 1):
            tell = partial(_tell, hooks, epoch)
            state, measured, seconds = _epoch(
                training, evaluations, clock, state, keys, tell, epoch
            )
            histories = tuple(
                one.append(epoch=epoch, **_columns(first.task, measured, member), seconds=seconds)
                for member, one in zip(range(networks) if many else [...], histories, strict=True)
            )
            record = Record(
                jax.tree.map(lambda leaf: leaf[:networks], state) if many else state,
                histories if many else histories[0],
                key,
                networks * training.examples,
                dict(clock.seconds),
            )
            answers = [hook(record) for hook in hooks]
            if in_any_process(any(answers)):
                break
    state = jax.tree.map(lambda leaf: leaf[:networks], state) if many else state
    return state, histories if many else histories[0]


def _tell(hooks: Sequence[Hook], epoch: int, fraction: float) -> None:
    for hook in hooks:
        if during := getattr(hook, "during", None):
            during(epoch, fraction)


def _epoch(
    training: Any,
    evaluations: dict[str, Any],
    clock: Clock,
    state: Any,
    keys: Any,
    tell: Callable[[float], None],
    epoch: int,
) -> tuple[TrainState, dict[str, Metrics], float]:
    """Train and evaluate for one epoch; the state, metrics on the host, and seconds of training."""
    before, key, start = state, _fold_in(keys, epoch), clock.seconds.get("training", 0.0)
    with clock("training"):
        state, metrics = training.epoch(before, key, tell)
        metrics = to_host(metrics)  # waits for the epoch to end
    if not _is_finite((metrics.sums["loss"], state.params)):
        raise NonFiniteLossError(epoch, _first_bad_step(to_host(training.steps(before, key))))
    with clock("evaluation"):
        measured = {"train": metrics} | {name: one(state) for name, one in evaluations.items()}
        on_host = to_host(measured)
    return state, {name: on_host[name] for name in measured}, clock.seconds["training"] - start


def _is_finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(to_host(tree)))


def _first_bad_step(metrics: Metrics) -> int:
    """From 1; the last step, if only the parameters after it are not finite."""
    losses = np.asarray(metrics.sums["loss"])  # (…, steps)
    bad = ~np.isfinite(losses.reshape(-1, losses.shape[-1])).all(axis=0)
    return int(bad.argmax()) + 1 if bad.any() else len(bad)


@jax.jit
def _fold_in(key: jax.Array, epoch: int) -> jax.Array:
    fold_in = jax.random.fold_in
    return jax.vmap(fold_in, (0, None))(key, epoch) if key.ndim else fold_in(key, epoch)


def _columns(task: Any, measured: Mapping[str, Metrics], member: Any) -> dict[str, float]:
    """A row of the history of one network: every metric of every split."""
    columns: dict[str, float] = {}
    for split, metrics in measured.items():
        means = jax.tree.map(lambda sums: np.asarray(sums)[member], metrics).means()
        columns |= {f"{split}_{name}": v for name, v in task.summarize(means).items()}
    return columns
