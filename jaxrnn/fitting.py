"""fit: the epoch loop that ties training, evaluation and history together."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax.training.train_state import TrainState
from jax.sharding import Mesh

from jaxrnn.checkpoints import Checkpoints
from jaxrnn.data import Batch, Split, check_batch_size, check_examples, epoch_indices, take
from jaxrnn.evaluation import evaluate, evaluate_block, evaluate_each, evaluate_stream
from jaxrnn.history import History, mean_history
from jaxrnn.optimizers import averaged
from jaxrnn.parallel import (
    batch_mesh,
    distribute,
    for_each_member,
    in_any_process,
    member_mesh,
    replicate,
    to_host,
)
from jaxrnn.progress import Clock, reporter
from jaxrnn.streaming import Stream, mesh_of
from jaxrnn.training import Augment, Metrics, compute_logits, measure, train_block, train_epoch


def fit(
    state: TrainState,
    train: Split | Stream,
    *,
    epochs: int,
    key: jax.Array | None = None,
    batch_size: int | None = None,
    validation: Split | Stream | None = None,
    test: Split | Stream | None = None,
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

    The data order of an epoch depends on ``fold_in(key, epoch)`` alone, from memory or a stream, so
    that a run that goes on with ``history`` sees the very batches that come next. Where the
    optimizer keeps an average of the parameters, that is what is evaluated.

    Many networks train at once where ``key`` is an array of N keys, and every array of ``state``
    has a leading axis of N: each comes out as if it had been trained alone on one device, to float
    rounding. The devices divide the networks among them instead of the batch.

    Where there are several processes, all of them call this with the same arguments. The devices of
    all share the batches; the first process writes ``history.csv`` and shows the progress.

    Args:
      state: from :func:`jaxrnn.create_train_state`; left as it was.
      train: what is trained on. A split is put on the device once, and so are the others; a
        :func:`jaxrnn.stream` is read as it goes, for one network; one that is evaluated, anew after
        each epoch, by new workers.
      epochs: epochs in all, those of ``history`` included.
      key: root of the data order; or N of them, see above. A stream has its own.
      batch_size: examples a step. A stream has its own.
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
      ValueError: ``epochs`` below 1; no ``key``, or one that is not the stream's; a ``batch_size``
        not between 1 and the examples of ``train``, or that does not divide among the processes;
        splits whose arrays, labels or lengths do not fit; an unknown ``train_curve``; a history
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
    if key is not None and not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # of the older kind, jax.random.PRNGKey
    if isinstance(train, Stream):
        key, batch_size = _of_stream(train, key, batch_size, drop_remainder)
    if key is None or batch_size is None:
        raise ValueError("key and batch_size are needed to train on a split")
    many = key.ndim > 0
    histories = _as_tuple(history) if history else (History(),) * max(1, key.size)
    for one in histories:
        if [row["epoch"] for row in one] != list(range(1, len(histories[0]) + 1)):
            raise ValueError("history must hold every epoch from 1 on, once and in order")
    if len(histories) != max(1, key.size):
        raise ValueError(f"{key.size} networks need as many histories; got {len(histories)}")
    first = jax.tree.map(lambda leaf: leaf[0], state) if many else state
    for split in (train, validation, test):
        if isinstance(split, Split):
            check_examples(split)
            _check_values(first, split)
        elif split is not None and many:
            raise ValueError("many networks train on splits; a stream has the order of one")
    if isinstance(train, Split):
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

    def real(state: TrainState) -> TrainState:
        """Without those that came round again."""
        return jax.tree.map(lambda leaf: leaf[:networks], state) if keys.size > networks else state

    options: Any = {"augment": augment, "label_smoothing": label_smoothing, "mesh": mesh}
    batching: Any = {"batch_size": batch_size, "drop_remainder": drop_remainder}
    done, is_first = len(histories[0]), jax.process_index() == 0
    with contextlib.ExitStack() as held:
        training: Any = (
            held.enter_context(_Streamed(train, options, done + 1, first))
            if isinstance(train, Stream)
            else _Resident(replicate(train, mesh), batching, options, many=many)
        )
        measuring = {
            name: _StreamMeasured(split, mesh, first)
            if isinstance(split, Stream)
            else _SplitMeasured(replicate(split, mesh), mesh, many=many)
            for name, split in (("validation", validation), ("test", test))
            if split is not None
        }
        if done < epochs:
            with clock("compilation"), ThreadPoolExecutor() as pool:
                # All at once, which takes as long as the slowest; calls then find it compiled.
                lowered = [*training.lower(state, _fold_in(keys, 1))]
                lowered += [one for each in measuring.values() for one in each.lower(state)]
                for one in lowered:
                    pool.submit(one.compile)

        report = held.enter_context(reporter(epochs, done, enabled=progress and is_first))
        for epoch in range(done + 1, epochs + 1):
            epoch_key = _fold_in(keys, epoch)
            before = clock.seconds.get("training", 0.0)
            with clock("training"):
                before_epoch = state
                state, metrics = training.epoch(state, epoch_key)
                metrics = to_host(metrics)  # waits for the epoch to end
            seconds = clock.seconds["training"] - before
            if not _is_finite((metrics.loss_sum, state.params)):
                steps = to_host(training.steps_of_last_epoch(before_epoch, epoch_key))
                raise NonFiniteLossError(epoch, _first_bad_step(steps))

            with clock("evaluation"):
                if train_curve == "last_batch":
                    metrics = training.measure_last(state, epoch_key)
                measured = {"train": metrics} | {
                    name: one(averaged(state)) for name, one in measuring.items()
                }
                measured = to_host(measured)
            histories = tuple(
                one.append(epoch=epoch, **_columns(measured, member, many), seconds=seconds)
                for member, one in enumerate(histories)
            )
            history = histories if many else histories[0]
            if workdir is not None and is_first:
                mean_history(histories).to_csv(Path(workdir) / "history.csv")
            if checkpoints is not None:
                checkpoints.save(real(state), history, key)
            report(mean_history(histories).rows[-1], len(histories) * training.examples / seconds)
            if on_epoch is not None:
                on_epoch(real(state), history)
            if stop is not None and in_any_process(stop(history)):
                break
    if checkpoints is not None:
        checkpoints.wait()
    return real(state), histories if many else histories[0]


class _Resident:
    """Training on a split that is on the devices: an epoch is one program."""

    def __init__(
        self, train: Split, batching: dict[str, Any], options: dict[str, Any], *, many: bool
    ) -> None:
        self._train, self._batching, self._options = train, batching, options
        self._run = _train_each if many else train_epoch
        self._measure_last = _evaluate_last_of_each if many else _evaluate_last
        rest = len(train) % batching["batch_size"] if batching["drop_remainder"] else 0
        self.examples = len(train) - rest

    def lower(self, state: TrainState, key: jax.Array) -> Iterator[Any]:
        yield self._run.lower(state, self._train, key, **self._batching, **self._options)

    def epoch(self, state: TrainState, key: jax.Array, **options: Any) -> Any:
        return self._run(state, self._train, key, **self._batching, **self._options, **options)

    def steps_of_last_epoch(self, before: TrainState, key: jax.Array) -> Metrics:
        return self.epoch(before, key, per_step=True)[1]

    def measure_last(self, state: TrainState, key: jax.Array) -> Metrics:
        mesh = self._options["mesh"]
        return self._measure_last(state, self._train, key, **self._batching, mesh=mesh)


class _Streamed:
    """Training on a stream: an epoch is some blocks, read and moved while others are trained on."""

    def __init__(
        self, train: Stream, options: dict[str, Any], epoch: int, example: TrainState
    ) -> None:
        self._train, self._options, self._mesh = train, options, options["mesh"]
        self._blocks = train.blocks(self._mesh, epoch=epoch, classes=_classes(example, train))
        self.examples = train.examples_per_epoch

    def __enter__(self) -> "_Streamed":
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks.close()

    def lower(self, state: TrainState, key: jax.Array) -> Iterator[Any]:
        for block in self._train.block_shapes(self._mesh):
            yield train_block.lower(state, block, key, **self._options_for(block))

    def _options_for(self, block: Batch) -> dict[str, Any]:
        return {**self._options, "mesh": mesh_of(block, self._mesh)}

    def epoch(self, state: TrainState, key: jax.Array) -> tuple[TrainState, Metrics]:
        steps: list[Metrics] = []
        for _ in range(self._train.blocks_per_epoch):
            self._last = next(self._blocks)
            jax.block_until_ready(steps[-2:-1])  # what waits for its turn is held in memory
            state, metrics = train_block(state, self._last, key, **self._options_for(self._last))
            steps.append(metrics)
        self._steps = jax.tree.map(lambda *sums: np.concatenate(sums), *map(to_host, steps))
        return state, jax.tree.map(np.sum, self._steps)

    def steps_of_last_epoch(self, before: TrainState, key: jax.Array) -> Metrics:
        return self._steps

    def measure_last(self, state: TrainState, key: jax.Array) -> Metrics:
        return _evaluate_last_of_block(state, self._last)


class _SplitMeasured:
    """A split on the devices, and how to measure a state on it."""

    def __init__(self, split: Split, mesh: Mesh, *, many: bool) -> None:
        self._split, self._mesh = split, mesh
        self._evaluate = evaluate_each if many else evaluate

    def lower(self, state: TrainState) -> Iterator[Any]:
        yield self._evaluate.lower(averaged(state), self._split, mesh=self._mesh)

    def __call__(self, state: TrainState) -> Metrics:
        return self._evaluate(state, self._split, mesh=self._mesh)


class _StreamMeasured:
    """A stream, one pass of which measures a state."""

    def __init__(self, stream: Stream, mesh: Mesh, example: TrainState) -> None:
        stream.check_whole()
        self._stream, self._mesh, self._classes = stream, mesh, _classes(example, stream)

    def lower(self, state: TrainState) -> Iterator[Any]:
        for block in self._stream.block_shapes(self._mesh):
            yield evaluate_block.lower(averaged(state), block, mesh=mesh_of(block, self._mesh))

    def __call__(self, state: TrainState) -> Metrics:
        return evaluate_stream(state, self._stream, mesh=self._mesh, classes=self._classes)


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
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(to_host(tree)))


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


@jax.jit
def _evaluate_last_of_block(state: TrainState, block: Batch) -> Metrics:
    return measure(state, jax.tree.map(lambda array: array[-1], block))


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


def _of_stream(
    train: Stream, key: jax.Array | None, batch_size: int | None, drop_remainder: bool
) -> tuple[jax.Array, int]:
    """Root key and batch size of a stream; what else was said must not differ."""
    if train.key is None:
        raise ValueError("a stream that is trained on needs a key, for its order")
    if key is not None and (
        key.shape or (jax.random.key_data(key) != jax.random.key_data(train.key)).any()
    ):
        raise ValueError("key is not that of the stream, which orders its batches by its own")
    if batch_size not in (None, train.batch_size) or drop_remainder > train.drop_remainder:
        raise ValueError("batch_size and drop_remainder are the stream's own, where one is given")
    return train.key, train.batch_size


def _classes(state: TrainState, stream: Stream) -> int:
    """Of the model, which has to take the stream's inputs."""
    example = stream.source.read([0])
    check_examples(example)
    return jax.eval_shape(compute_logits, state, example).shape[-1]


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
