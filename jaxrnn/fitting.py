"""fit: the epoch loop that ties training, evaluation and history together."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from tqdm import tqdm

from jaxrnn.checkpoints import Checkpoints
from jaxrnn.data import Split, check_batch_size, check_examples, epoch_indices, take
from jaxrnn.evaluation import evaluate, evaluate_each
from jaxrnn.history import History, mean_history
from jaxrnn.optimizers import averaged
from jaxrnn.parallel import batch_mesh, distribute, for_each_member, member_mesh, replicate
from jaxrnn.training import Augment, Metrics, compute_logits, measure, train_epoch


class Clock:
    """Seconds by phase, with what JAX spends on compiling counted apart as ``compilation``.

    Only the thread that entered the phase counts: what others compile meanwhile delays nobody.

    >>> clock = Clock()
    >>> with clock("training"):
    ...     _ = jax.jit(lambda x: x + 1)(1.0)
    >>> sorted(clock.seconds)
    ['compilation', 'training']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"compilation": 0.0}
        self._running = False

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time that the ``with`` block takes to ``seconds[phase]``."""
        if self._running:
            raise RuntimeError("the clock is running already: phases do not nest")
        self._running, self._thread = True, threading.get_ident()
        compiled, start = self.seconds["compilation"], time.perf_counter()
        listening = phase != "compilation"  # which is all that happens there
        if listening:
            jax.monitoring.register_event_duration_secs_listener(self._listen)
        try:
            yield
        finally:
            if listening:
                jax.monitoring.unregister_event_duration_listener(self._listen)
            self._running = False
            compiling = self.seconds["compilation"] - compiled
            elapsed = time.perf_counter() - start - compiling
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        compiling = event.startswith("/jax/core/compile/")  # tracing, lowering, XLA
        if compiling and threading.get_ident() == self._thread:
            self.seconds["compilation"] += duration_secs


def fit(
    state: TrainState,
    train: Split,
    *,
    key: jax.Array,
    epochs: int,
    batch_size: int,
    validation: Split | None = None,
    test: Split | None = None,
    drop_remainder: bool = False,
    train_curve: Literal["epoch", "last_batch"] = "epoch",
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
    history: Any = None,
    on_epoch: Callable[[TrainState, Any], None] | None = None,
    stop: Callable[[Any], bool] | None = None,
    checkpoints: Checkpoints | None = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: bool = False,
    clock: Clock | None = None,
    devices: int | None = None,
) -> tuple[TrainState, Any]:
    """Train for some epochs, evaluating and recording after each.

    The data order of an epoch depends on ``fold_in(key, epoch)`` alone. Where the optimizer keeps
    an average of the parameters, that is what is evaluated.

    Many networks train at once where ``key`` is an array of N keys, and every array of ``state``
    has a leading axis of N: each comes out as if it had been trained alone on one device, to float
    rounding. The devices divide the networks among them instead of the batch.

    Args:
      state: from :func:`jaxrnn.create_train_state`; left as it was.
      train: what is trained on. All splits are put on the device once.
      key: root of the data order; or N of them, see above.
      epochs: epochs in all, those of ``history`` included.
      batch_size: examples a step.
      validation, test: evaluated after every epoch where given.
      drop_remainder: train on whole batches only, see :func:`jaxrnn.train_epoch`.
      train_curve: what the training columns hold. ``epoch``: the mean over the epoch's steps, each
        measured before its update, as Keras does. ``last_batch``: the epoch's last batch, measured
        after its own update.
      augment, label_smoothing: see :func:`jaxrnn.train_epoch`.
      history: epochs that ``state`` has behind it; they are kept and not run again.
      on_epoch: called with state and history after each epoch.
      stop: asked after each epoch; where it returns true, that was the last one.
      checkpoints: where each epoch is saved while the next one runs, see
        :class:`jaxrnn.Checkpoints`. All of it is on disk when ``fit`` returns.
      workdir: an existing folder; ``history.csv`` in it is replaced, atomically, after each epoch.
      progress: show a bar with loss, accuracy and examples per second on stdout, or a line for each
        epoch where stdout is no terminal.
      clock: its ``training``, ``evaluation`` and ``compilation`` seconds are added to.
      devices: how many share each batch, see :func:`jaxrnn.parallel.batch_mesh`; as many as divide
        it by default. The result is the same to float rounding.

    Returns:
      The trained state, and the :class:`History` of all epochs; of N networks, a tuple of N.
      ``history`` and what the callbacks get are likewise; ``history.csv`` is then their mean.

    Raises:
      ValueError: ``epochs`` below 1, ``batch_size`` not between 1 and the examples of ``train``,
        splits whose arrays, labels or lengths do not fit, an unknown ``train_curve``, or a history
        that lacks an epoch.
      NotADirectoryError: ``workdir`` is no folder.
      NonFiniteLossError: the loss or a parameter is infinite or not a number; such an epoch is
        neither recorded nor saved.
      OSError: ``history.csv`` or a checkpoint could not be written.

    >>> import optax
    >>> from jaxrnn import RNNClassifier, create_train_state, load
    >>> train = load("mnist", split="train[:100]")
    >>> init_key, data_key = jax.random.split(jax.random.key(0))
    >>> state = create_train_state(init_key, RNNClassifier(), optax.adam(1e-3), train.inputs)
    >>> state, history = fit(state, train, key=data_key, epochs=2, batch_size=50)
    >>> int(state.step), len(history), history.measured("train_loss")
    (4, 2, True)
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1; got {epochs}")
    if train_curve not in ("epoch", "last_batch"):
        raise ValueError(f"train_curve must be epoch or last_batch; got {train_curve!r}")
    if workdir is not None and not Path(workdir).is_dir():
        raise NotADirectoryError(f"workdir {workdir} is no folder")
    if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # of the older kind, jax.random.PRNGKey
    many = key.ndim > 0
    histories = _as_tuple(history) if history else (History(),) * max(1, key.size)
    for one in histories:
        if [row["epoch"] for row in one] != list(range(1, len(histories[0]) + 1)):
            raise ValueError("history must hold every epoch from 1 on, once and in order")
    if len(histories) != max(1, key.size):
        raise ValueError(f"{key.size} networks need as many histories; got {len(histories)}")
    first = jax.tree.map(lambda leaf: leaf[0], state) if many else state
    for split in (train, validation, test):
        if split is not None:
            check_examples(split)
            _check_values(first, split)
    check_batch_size(batch_size, train)

    clock = Clock() if clock is None else clock
    networks, keys = max(1, key.size), key
    if many:  # those that come round again fill up the last device's share
        mesh, padded = member_mesh(networks, devices)
        if padded > networks:
            again = np.arange(padded) % networks
            state, keys = jax.tree.map(lambda leaf: leaf[again], (state, key))
        state = distribute(state, mesh)
    else:
        mesh = batch_mesh(batch_size, devices)
        state = replicate(state, mesh)
    train, validation, test = replicate((train, validation, test), mesh)

    def real(state: TrainState) -> TrainState:
        """Without those that came round again."""
        return jax.tree.map(lambda leaf: leaf[:networks], state) if keys.size > networks else state

    # What the steps of an epoch see: one split, one batch size, one rule for what is left over.
    batching: dict[str, Any] = {"batch_size": batch_size, "drop_remainder": drop_remainder}
    training = {**batching, "augment": augment, "label_smoothing": label_smoothing, "mesh": mesh}
    examples = (len(train) - drop_remainder * (len(train) % batch_size)) * len(histories)
    run_epoch, measure_split, measure_last = (
        (_train_each, evaluate_each, _evaluate_last_of_each)
        if many
        else (train_epoch, evaluate, _evaluate_last)
    )

    done = len(histories[0])
    if done < epochs:
        with clock("compilation"), ThreadPoolExecutor() as pool:
            # All at once, which takes as long as the slowest; calling them finds them compiled.
            pool.submit(run_epoch.lower(state, train, _fold_in(keys, 1), **training).compile)
            for split in (validation, test):
                if split is not None:
                    pool.submit(measure_split.lower(averaged(state), split, mesh=mesh).compile)

    with _reporter(epochs, done, enabled=progress) as report:
        for epoch in range(done + 1, epochs + 1):
            epoch_key = _fold_in(keys, epoch)
            before = clock.seconds.get("training", 0.0)
            with clock("training"):
                before_epoch = state
                state, metrics = run_epoch(state, train, epoch_key, **training)
                metrics = jax.device_get(metrics)  # waits for the epoch to end
            seconds = clock.seconds["training"] - before
            if not _is_finite((metrics.loss_sum, state.params)):
                _, metrics = run_epoch(before_epoch, train, epoch_key, **training, per_step=True)
                raise NonFiniteLossError(epoch, _first_bad_step(metrics))

            with clock("evaluation"):
                if train_curve == "last_batch":
                    metrics = measure_last(state, train, epoch_key, **batching, mesh=mesh)
                measured = {"train": metrics}
                for name, split in (("validation", validation), ("test", test)):
                    if split is not None:
                        measured[name] = measure_split(averaged(state), split, mesh=mesh)
                measured = jax.device_get(measured)
            histories = tuple(
                one.append(epoch=epoch, **_columns(measured, member, many), seconds=seconds)
                for member, one in enumerate(histories)
            )
            history = histories if many else histories[0]
            if workdir is not None:
                mean_history(histories).to_csv(Path(workdir) / "history.csv")
            if checkpoints is not None:
                checkpoints.save(real(state), history, key)
            report(mean_history(histories).rows[-1], examples / seconds)
            if on_epoch is not None:
                on_epoch(real(state), history)
            if stop is not None and stop(history):
                break
    if checkpoints is not None:
        checkpoints.wait()
    return real(state), histories if many else histories[0]


class NonFiniteLossError(ArithmeticError):
    """Training left the finite numbers.

    Attributes:
      epoch: where, from 1.
      step: of that epoch, from 1; the first whose loss is not finite.
    """

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss is no finite number from epoch {epoch}, step {step} on")
        self.epoch, self.step = epoch, step


def _is_finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(tree)))


def _first_bad_step(metrics: Metrics) -> int:
    """From 1, of the losses (…, steps); the last one, if only the parameters after it are bad."""
    losses = np.asarray(metrics.loss_sum)
    bad = ~np.isfinite(losses.reshape(-1, losses.shape[-1])).all(axis=0)
    return int(bad.argmax()) + 1 if bad.any() else len(bad)


@jax.jit
def _fold_in(key: jax.Array, epoch: int) -> jax.Array:
    fold_in = jax.random.fold_in
    return jax.vmap(fold_in, (0, None))(key, epoch) if key.ndim else fold_in(key, epoch)


@partial(jax.jit, static_argnames=("batch_size", "drop_remainder", "mesh"))
def _evaluate_last(
    state: TrainState, train: Split, key: jax.Array, *, mesh: Mesh | None, **batching: Any
) -> Metrics:
    """Of an epoch's last batch."""
    whole, rest = epoch_indices(key, len(train), **batching)
    return measure(state, take(train, rest if len(rest) else whole[-1]))


_TRAINING = ("batch_size", "drop_remainder", "augment", "label_smoothing", "per_step", "mesh")


@partial(jax.jit, static_argnames=_TRAINING)
def _train_each(
    states: TrainState, train: Split, keys: jax.Array, *, mesh: Mesh, **training: Any
) -> tuple[TrainState, Metrics]:
    def train_one(member: tuple[TrainState, jax.Array], train: Split) -> Any:
        state, key = member
        return train_epoch(state, train, key, **training)

    return for_each_member(train_one, (states, keys), train, mesh)


@partial(jax.jit, static_argnames=("batch_size", "drop_remainder", "mesh"))
def _evaluate_last_of_each(
    states: TrainState, train: Split, keys: jax.Array, *, mesh: Mesh, **batching: Any
) -> Metrics:
    def evaluate_one(member: tuple[TrainState, jax.Array], train: Split) -> Metrics:
        state, key = member
        return _evaluate_last(state, train, key, mesh=None, **batching)

    return for_each_member(evaluate_one, (states, keys), train, mesh)


def _as_tuple(history: Any) -> tuple[History, ...]:
    return (history,) if isinstance(history, History) else tuple(history)


def _check_values(state: TrainState, split: Split) -> None:
    """Raise ``ValueError`` for labels and lengths out of range, which JAX would not notice."""
    logits = jax.eval_shape(compute_logits, state, take(split, np.array([0])))
    labels = np.asarray(split.labels)
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"labels must be between 0 and {logits.shape[-1] - 1}, one of the model's classes; "
            f"got {labels.min()} to {labels.max()}"
        )
    if split.lengths is not None:
        lengths, time = np.asarray(split.lengths), np.shape(split.inputs)[1]
        if lengths.min() < 0 or lengths.max() > time:
            raise ValueError(
                f"lengths must be between 0 and the {time} time steps; "
                f"got {lengths.min()} to {lengths.max()}"
            )


def _columns(measured: dict[str, Metrics], member: int, many: bool) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, metrics in measured.items():
        metrics = jax.tree.map(lambda sums: sums[member], metrics) if many else metrics
        columns |= {f"{name}_loss": metrics.loss, f"{name}_accuracy": metrics.accuracy}
    return columns


@contextmanager
def _reporter(
    epochs: int, done: int, *, enabled: bool
) -> Iterator[Callable[[dict[str, float], float], None]]:
    """How an epoch is shown: a bar on a terminal, else a line, else not at all."""
    if not enabled:
        yield lambda row, rate: None
    elif not sys.stdout.isatty():
        yield lambda row, rate: print(
            f"epoch {row['epoch']}/{epochs}: {', '.join(_describe(row, rate))}", flush=True
        )
    else:
        with tqdm(total=epochs, initial=done, unit="epoch", file=sys.stdout) as bar:

            def report(row: dict[str, float], rate: float) -> None:
                bar.set_postfix_str(", ".join(_describe(row, rate)), refresh=False)
                bar.update()

            yield report


def _describe(row: dict[str, float], rate: float) -> Iterator[str]:
    yield f"loss {row['train_loss']:.4f}"
    yield f"accuracy {row['train_accuracy']:.4f}"
    for name in ("validation", "test"):
        if f"{name}_accuracy" in row:
            yield f"{name} accuracy {row[f'{name}_accuracy']:.4f}"
    yield f"{rate:,.0f} examples/s"
