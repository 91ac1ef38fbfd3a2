"""fit: the epoch loop that ties training, evaluation and history together."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax.training.train_state import TrainState
from tqdm import tqdm

from jaxrnn.checkpoints import Checkpoints
from jaxrnn.data import Split, batches, check_batch_size, check_examples, epoch_indices, take
from jaxrnn.evaluation import evaluate
from jaxrnn.history import History
from jaxrnn.parallel import batch_mesh, replicate
from jaxrnn.training import Metrics, compute_logits, train_epoch, train_step


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
    history: History | None = None,
    on_epoch: Callable[[TrainState, History], None] | None = None,
    stop: Callable[[History], bool] | None = None,
    checkpoints: Checkpoints | None = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: bool = False,
    clock: Clock | None = None,
    devices: int | None = None,
) -> tuple[TrainState, History]:
    """Train for some epochs, evaluating and recording after each.

    The data order of an epoch depends on ``fold_in(key, epoch)`` alone.

    Args:
      state: from :func:`jaxrnn.create_train_state`; left as it was.
      train: what is trained on. All splits are put on the device once.
      key: root of the data order.
      epochs: epochs in all, those of ``history`` included.
      batch_size: examples a step.
      validation, test: evaluated after every epoch where given.
      drop_remainder: train on whole batches only, see :func:`jaxrnn.train_epoch`.
      train_curve: what the training columns hold. ``epoch``: the mean over the epoch's steps, each
        measured before its update, as Keras does. ``last_batch``: the epoch's last batch, measured
        after its own update.
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
      The trained state, and the :class:`History` of all epochs.

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
    history = History() if history is None else history
    if [row["epoch"] for row in history] != list(range(1, len(history) + 1)):
        raise ValueError("history must hold every epoch from 1 on, once and in order")
    for split in (train, validation, test):
        if split is not None:
            check_examples(split)
            _check_values(state, split)
    check_batch_size(batch_size, train)

    clock = Clock() if clock is None else clock
    mesh = batch_mesh(batch_size, devices)
    state, train, validation, test = replicate((state, train, validation, test), mesh)
    # What the steps of an epoch see: one split, one batch size, one rule for what is left over.
    batching: dict[str, Any] = {"batch_size": batch_size, "drop_remainder": drop_remainder}
    examples = len(train) - drop_remainder * (len(train) % batch_size)

    if len(history) < epochs:
        with clock("compilation"), ThreadPoolExecutor() as pool:
            # All at once, which takes as long as the slowest; calling them finds them compiled.
            pool.submit(train_epoch.lower(state, train, key, **batching, mesh=mesh).compile)
            for split in (validation, test):
                if split is not None:
                    pool.submit(evaluate.lower(state, split, mesh=mesh).compile)

    with _reporter(epochs, len(history), enabled=progress) as report:
        for epoch in range(len(history) + 1, epochs + 1):
            epoch_key = jax.random.fold_in(key, epoch)
            before = clock.seconds.get("training", 0.0)
            with clock("training"):
                before_epoch = state
                state, metrics = train_epoch(state, train, epoch_key, **batching, mesh=mesh)
                metrics = jax.device_get(metrics)  # waits for the epoch to end
            seconds = clock.seconds["training"] - before
            if not _is_finite((metrics.loss_sum, state.params)):
                step = _first_step_that_is_not_finite(before_epoch, train, epoch_key, **batching)
                raise NonFiniteLossError(epoch, step)

            with clock("evaluation"):
                if train_curve == "last_batch":
                    batch = _last_batch(train, epoch_key, **batching)
                    metrics = evaluate(state, batch, batch_size=batch_size)
                row = {"epoch": epoch, **_columns("train", metrics)}
                for name, split in (("validation", validation), ("test", test)):
                    if split is not None:
                        row |= _columns(name, evaluate(state, split, mesh=mesh))
            history = history.append(**row, seconds=seconds)
            if workdir is not None:
                history.to_csv(Path(workdir) / "history.csv")
            if checkpoints is not None:
                checkpoints.save(state, history, key)
            report(history.rows[-1], examples / seconds)
            if on_epoch is not None:
                on_epoch(state, history)
            if stop is not None and stop(history):
                break
    if checkpoints is not None:
        checkpoints.wait()
    return state, history


class NonFiniteLossError(ArithmeticError):
    """Training left the finite numbers.

    Attributes:
      epoch: where, from 1.
      step: of that epoch, from 1; the first whose loss, or whose new parameters, are not finite.
    """

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss is no finite number from epoch {epoch}, step {step} on")
        self.epoch, self.step = epoch, step


def _is_finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(tree)))


def _first_step_that_is_not_finite(
    state: TrainState, train: Split, key: jax.Array, **batching: Any
) -> int:
    """The epoch once more, a step at a time."""
    state, train = jax.device_put((state, train), jax.devices()[0])
    step = 0
    for step, batch in enumerate(batches(train, key, **batching), start=1):
        state, metrics = train_step(state, batch)
        if not _is_finite((metrics.loss_sum, state.params)):
            return step
    return step  # of a loss so large that adding up in another order keeps it finite


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


def _last_batch(train: Split, key: jax.Array, *, batch_size: int, drop_remainder: bool) -> Split:
    whole, rest = epoch_indices(
        key, len(train), batch_size=batch_size, drop_remainder=drop_remainder
    )
    return Split(**take(train, rest if len(rest) else whole[-1]))


def _columns(name: str, metrics: Metrics) -> dict[str, float]:
    metrics = jax.device_get(metrics)
    return {f"{name}_loss": float(metrics.loss), f"{name}_accuracy": float(metrics.accuracy)}


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
