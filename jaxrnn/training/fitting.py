"""fit: the epoch loop that ties training, evaluation and history together."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import jax
import numpy as np
from annotated_types import Ge, Lt
from jax.sharding import Mesh
from jaxtyping import Array, Key

from jaxrnn.data.splits import Split
from jaxrnn.data.streams import Stream
from jaxrnn.groups import Count, Group
from jaxrnn.training.epochs import (
    Augment,
    Block,
    blocks_in_order,
    data_order,
    fold_in,
    shuffled_epochs,
    train_block,
)
from jaxrnn.training.evaluation import bounded_batch_size, evaluate, measure_block
from jaxrnn.training.forward import check_fits
from jaxrnn.training.history import Clock, History, choosing_column, has_stalled
from jaxrnn.training.metrics import Metrics, NonFiniteLossError
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.sharding import batch_mesh, in_any_process, replicate, suitable_devices
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import StepOptions
from jaxrnn.training.tasks import Task


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Group):
    """The training loop."""

    epochs: Count = 5
    """Number of epochs."""
    batch_size: Count = 150
    """Examples in each optimizer step."""
    drop_remainder: bool = False
    """Train on whole batches only, leaving out the examples that don't fill a batch."""
    steps_per_epoch: Count | None = None
    """When streaming: number of steps after which to evaluate and save; None for a whole pass."""
    train_curve: Literal["epoch", "last_batch"] = "epoch"
    """Training curve: the mean over the steps of the epoch, or its last batch after its update."""
    accumulate: Count = 1
    """Gradient accumulation: number of parts into which each batch is split, to save memory."""
    truncate: Count | None = None
    """Truncated backpropagation: split longer sequences into chunks of this many time steps, update
    after each, and carry the state over to the next; None for whole sequences."""
    remat: Count | None = None
    """Rematerialization: split longer sequences into pieces of this many time steps, and recompute
    each in the backward pass, to save memory; None to keep all activations. Dropout draws a new
    mask for each piece."""
    patience: Count | None = None
    """Early stopping: stop after this many epochs without improvement, and keep the best epoch;
    None for no early stopping."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of initial weights and data order; results are reproducible on the same devices."""


@dataclass(frozen=True)
class Record:
    """What :func:`fit` passes to every hook after an epoch."""

    state: TrainState
    """The state after the epoch."""
    history: History
    """The curves so far."""
    key: Key[Array, ""]
    """Root of the data order."""
    examples: int
    """Number of examples trained on in this epoch."""
    seconds: Mapping[str, float]
    """Seconds spent by :func:`fit` so far, by phase."""


Hook: TypeAlias = Callable[[Record], object]
"""Called after each epoch; its method ``during(epoch, fraction)``, if any, during the epoch."""


def fit(
    state: TrainState,
    train: Split | Stream,
    trainer: TrainerConfig = TrainerConfig(),
    *,
    key: Key[Array, ""] | int | None = None,
    evals: Mapping[str, Split | Stream] | None = None,
    augment: Augment | None = None,
    history: History = History(),  # noqa: B008
    hooks: Sequence[Hook] = (),
    devices: int | None = None,
) -> tuple[TrainState, History]:
    """Train for several epochs; evaluate and record after each.

    The data order of an epoch depends on ``fold_in(key, epoch)`` alone, so continuing from
    ``history`` gives the batches of a run that was never stopped. If the optimizer averages the
    parameters, the average is evaluated. Several processes all call this with the same arguments,
    and share the batches.

    Args:
      state: from :func:`jaxrnn.create_train_state`; it is not modified.
      train: training data. A split is put on the devices once. A :func:`jaxrnn.stream` is read as
        it is needed, and has its own key, batch size, remainder and steps per epoch.
      trainer: options of the loop. Its ``epochs`` include those of ``history``; its ``seed`` is not
        used. With ``patience``, training stops early, and the last state is returned.
      key: root of the data order of a split.
      evals: splits or streams to evaluate after every epoch, by name; early stopping watches the
        first one.
      augment: see :func:`jaxrnn.train_epoch`.
      history: the epochs that ``state`` was already trained for.
      hooks: functions to call with a :class:`Record` after each epoch, in this order. Training
        stops after an epoch for which one of them returns true.
      devices: number of devices that share each batch; by default as many as divide it, but one on
        a CPU if a layer has 512 or more recurrent units.

    Raises:
      ValueError: arguments are missing or don't fit each other.
      NonFiniteLossError: the loss, a parameter, or the metric that chooses the best epoch is
        infinite or not a number. No hook is called for that epoch.

    >>> import optax
    >>> from jaxrnn import RNNModel, create_train_state, load
    >>> train = load("mnist", split="train[:100]")
    >>> init_key, data_key = jax.random.split(jax.random.key(0))
    >>> state = create_train_state(init_key, RNNModel(), optax.adam(1e-3), train.inputs)
    >>> trainer = TrainerConfig(epochs=2, batch_size=50)
    >>> state, history = fit(state, train, trainer, key=data_key)
    >>> int(state.step), len(history), history.measured("train_loss")
    (4, 2, True)
    """
    evals = dict(evals or {})
    if any(name.split("_")[0] in ("train", "best") or not name.isidentifier() for name in evals):
        kind = "identifiers that don't begin with train or best"
        raise ValueError(f"names of evals must be {kind}; got {[*evals]}")
    if trainer.steps_per_epoch and isinstance(train, Split):
        raise ValueError("steps_per_epoch is an option of streams")
    if [row["epoch"] for row in history] != list(range(1, len(history) + 1)):
        raise ValueError("history must contain every epoch from 1 on, once and in order")
    if trainer.train_curve not in ("epoch", "last_batch"):
        raise ValueError(f"train_curve must be epoch or last_batch; got {trainer.train_curve!r}")
    outputs = check_fits(state, {"train": train, **evals})
    order = data_order(train, key, trainer.batch_size, trainer.drop_remainder)
    root: Any = order.key
    mesh = batch_mesh(order.batch_size, suitable_devices(state.params, devices))
    state, train = replicate(state, mesh), replicate(train, mesh)
    evals |= replicate(evals, mesh)  # in their order
    step_options = StepOptions(trainer.accumulate, trainer.truncate, trainer.remat)
    options = {"augment": augment, "options": step_options}
    clock, first = Clock(), len(history) + 1
    shuffled = shuffled_epochs(train, order, mesh, first=first, outputs=outputs)
    with contextlib.closing(shuffled) as epochs:
        for epoch in range(first, trainer.epochs + 1):
            if has_stalled(history, state.task, trainer.patience):
                break
            start = clock.seconds.get("training", 0.0)
            with clock("training"):
                blocks, epoch_key = next(epochs), fold_in(root, epoch)
            if epoch == first and isinstance(blocks, list):
                with clock("compilation"):
                    _compile(state, blocks, evals.values(), epoch_key, mesh, options)
            with clock("training"):
                report = [partial(h.during, epoch) for h in hooks if hasattr(h, "during")]
                state, steps, last = _train(state, blocks, epoch_key, len(order), report, options)
            _check_finite(state, steps, epoch)
            with clock("evaluation"):
                measured = {"train": jax.tree.map(np.sum, steps)}
                if trainer.train_curve == "last_batch":
                    measured["train"] = measure_block(state, *last)
                average = averaged(state)
                for name, data in evals.items():
                    measured[name] = evaluate(average, data, mesh=mesh, outputs=outputs)
                row = _columns(state.task, measured, epoch)
            history = history.append(epoch=epoch, **row, seconds=clock.seconds["training"] - start)
            record = Record(state, history, root, order.examples_per_epoch, dict(clock.seconds))
            if in_any_process(any([hook(record) for hook in hooks])):  # noqa: C419 — each is called
                break
    return state, history


def _compile(
    state: TrainState,
    blocks: Sequence[Block],
    evals: Iterable[Split | Stream],
    key: Key[Array, ""],
    mesh: Mesh,
    options: Mapping[str, Any],
) -> None:
    """Compile the programs of an epoch in parallel; later calls reuse them."""
    measured: list[Block] = []
    for split in evals:
        if isinstance(split, Split):
            measured += blocks_in_order(split, bounded_batch_size(state, split), mesh)
    with ThreadPoolExecutor() as pool:
        # Errors of compilation are raised again by the call itself.
        for examples, rows, shared_by in {block.rows.shape: block for block in blocks}.values():
            pool.submit(train_block.lower(state, examples, rows, key, shared_by, **options).compile)
        for block in measured:
            pool.submit(measure_block.lower(averaged(state), *block).compile)


def _train(
    state: TrainState,
    blocks: Iterable[Block],
    key: Key[Array, ""],
    count: int,
    report: Sequence[Callable[[float], object]],
    options: Mapping[str, Any],
) -> tuple[TrainState, Metrics, Block]:
    """Train for an epoch; return the state, the metrics of each step, and the last batch."""
    measured: list[Metrics] = []
    for examples, rows, mesh in blocks:
        jax.block_until_ready(measured[-2:-1])  # waiting blocks take up memory
        for during in report:
            during(sum(len(metrics.weight) for metrics in measured[:-1]) / count)
        state, metrics = train_block(state, examples, rows, key, mesh, **options)
        measured.append(metrics)
    steps = jax.tree.map(lambda *sums: np.concatenate(sums), *jax.device_get(measured))
    return state, steps, Block(examples, rows[-1:], mesh if isinstance(examples, dict) else None)


def _check_finite(state: TrainState, steps: Metrics, epoch: int) -> None:
    bad = ~np.isfinite(steps.sums["loss"])
    leaves = jax.tree.leaves(jax.device_get(state.params))
    bad[-1] |= not all(np.isfinite(leaf).all() for leaf in leaves)  # after the last update
    if bad.any():
        step = int(bad.argmax()) + 1
        message = f"the loss is not finite from epoch {epoch}, step {step} on"
        raise NonFiniteLossError(message, epoch, step)


def _columns(task: Task, measured: Mapping[str, Metrics], epoch: int) -> dict[str, float]:
    """Return a row of the history: every metric of every split, in order."""
    row = {
        f"{split}_{name}": value
        for split, metrics in measured.items()
        for name, value in task.summarize(jax.device_get(metrics).means()).items()
    }
    chosen = choosing_column(row, task)
    if chosen is not None and not np.isfinite(row[chosen]):  # can't be compared
        raise NonFiniteLossError(f"{chosen} is {row[chosen]:g} after epoch {epoch}", epoch)
    return row
