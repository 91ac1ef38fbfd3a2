"""Epochs: training and evaluation on splits in memory and on streams, compiled once."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrnn.data.splits import Batch, Split
from jaxrnn.data.streams import Stream, mesh_of
from jaxrnn.training.epochs import Report, train_block, train_epoch
from jaxrnn.training.evaluation import evaluate, evaluate_block, evaluate_each, evaluate_stream
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.sharding import for_each_member, replicate, to_host
from jaxrnn.training.state import TrainState

Tell = Callable[[float], Any]
"""Called with the fraction of an epoch that is done."""

_OPERATIONS = 3e11  # about two seconds of training on a CPU


class ResidentEpochs:
    """Epochs on a split that is on the devices, each one XLA program, called once or part by part.

    Whatever the number of parts, the results are the same, bit for bit.
    """

    def __init__(
        self, train: Split, options: Mapping[str, Any], report: Report, *, many: bool
    ) -> None:
        self._train = replicate(train, options["mesh"])
        self._last_batch = report == "last_batch"
        self._options = {**options, "report": report if self._last_batch else "steps"}
        self._run = _train_each if many else train_epoch
        rest = len(train) % options["batch_size"] if options["drop_remainder"] else 0
        self.examples = len(train) - rest
        self._number = -(-self.examples // options["batch_size"])

    def _parts(self, state: TrainState) -> list[tuple[np.int32, np.int32]]:
        """Parts of some seconds each, by the operations that they take."""
        weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        time = np.shape(self._train.inputs)[1]
        parts = int(6 * weights * time * self.examples / _OPERATIONS)
        parts = max(1, min(parts, self._number, 50))
        edges = np.linspace(0, self._number, parts + 1).astype(np.int32)
        return list(itertools.pairwise(edges))

    def lower(self, state: TrainState, key: jax.Array) -> Iterator[Any]:
        """Lower what an epoch runs, to be compiled."""
        part = self._parts(state)[0]
        yield self._run.lower(state, self._train, key, part=part, **self._options)

    def epoch(self, state: TrainState, key: jax.Array, tell: Tell) -> tuple[TrainState, Metrics]:
        """Train for one epoch, and tell after each part but the last."""
        parts, steps = self._parts(state), Metrics.zero()
        for part in parts:
            state, metrics = self._run(state, self._train, key, part=part, **self._options)
            metrics = to_host(metrics)  # waits for the part to end
            if part is not parts[-1]:
                tell(part[1] / self._number)
            steps += metrics
        if self._last_batch:
            return state, metrics
        return state, jax.tree.map(lambda sums: sums.sum(-1), steps)

    def steps(self, before: TrainState, key: jax.Array) -> Metrics:
        """The metrics of each step of the epoch that began with this state."""
        return self._run(before, self._train, key, **{**self._options, "report": "steps"})[1]

    def close(self) -> None:
        """Nothing is open."""


class StreamedEpochs:
    """Epochs on a stream, in blocks that are read and moved while earlier ones are trained on."""

    def __init__(
        self,
        train: Stream,
        options: Mapping[str, Any],
        report: Report,
        *,
        epoch: int,
        classes: int,
    ) -> None:
        self._train, self._shared, self._report = train, options, report
        self._mesh = options["mesh"]
        self._blocks = train.blocks(self._mesh, epoch=epoch, classes=classes)
        self.examples = train.examples_per_epoch

    def lower(self, state: TrainState, key: jax.Array) -> Iterator[Any]:
        """Lower what an epoch runs, to be compiled."""
        for block in self._train.block_shapes(self._mesh):
            yield train_block.lower(state, block, key, **self._options(block))

    def _options(self, block: Batch) -> dict[str, Any]:
        return {**self._shared, "mesh": mesh_of(block, self._mesh)}

    def epoch(self, state: TrainState, key: jax.Array, tell: Tell) -> tuple[TrainState, Metrics]:
        """Train for one epoch, on the blocks that come next, and tell after each."""
        steps: list[Metrics] = []
        for done in range(self._train.blocks_per_epoch):
            block = next(self._blocks)
            jax.block_until_ready(steps[-2:-1])  # blocks that wait to be trained on take memory
            tell(max(0, done - 1) / self._train.blocks_per_epoch)
            state, metrics = train_block(state, block, key, **self._options(block))
            steps.append(metrics)
        self._steps = jax.tree.map(lambda *sums: np.concatenate(sums), *map(to_host, steps))
        if self._report == "last_batch":
            last = jax.tree.map(lambda array: array[-1:], block)
            return state, evaluate_block(state, last, mesh=mesh_of(block, self._mesh))
        return state, jax.tree.map(np.sum, self._steps)

    def steps(self, before: TrainState, key: jax.Array) -> Metrics:
        """The metrics of each step of the epoch that was trained last."""
        return self._steps

    def close(self) -> None:
        """Stop reading."""
        self._blocks.close()


class SplitEvaluation:
    """Evaluation of a split that is on the devices."""

    def __init__(self, split: Split, mesh: Mesh, *, many: bool) -> None:
        self._split, self._mesh = replicate(split, mesh), mesh
        self._evaluate = evaluate_each if many else evaluate

    def lower(self, state: TrainState) -> Iterator[Any]:
        """Lower the evaluation, to be compiled."""
        yield self._evaluate.lower(averaged(state), self._split, mesh=self._mesh)

    def __call__(self, state: TrainState) -> Metrics:
        """Measure a state, by the average of its parameters if there is one."""
        return self._evaluate(averaged(state), self._split, mesh=self._mesh)


class StreamEvaluation:
    """Evaluation of one pass of a stream."""

    def __init__(self, stream: Stream, mesh: Mesh, *, classes: int) -> None:
        stream.check_whole()
        self._stream, self._mesh, self._classes = stream, mesh, classes

    def lower(self, state: TrainState) -> Iterator[Any]:
        """Lower the evaluation, to be compiled."""
        for block in self._stream.block_shapes(self._mesh):
            yield evaluate_block.lower(averaged(state), block, mesh=mesh_of(block, self._mesh))

    def __call__(self, state: TrainState) -> Metrics:
        """Measure a state, by the average of its parameters if there is one."""
        state, mesh = averaged(state), self._mesh
        return evaluate_stream(state, self._stream, mesh=mesh, classes=self._classes)


def evaluation_of(split: Split | Stream, mesh: Mesh, *, many: bool, classes: int) -> Any:
    """What measures a state, or those of many networks, on a split or a stream."""
    if isinstance(split, Stream):
        return StreamEvaluation(split, mesh, classes=classes)
    return SplitEvaluation(split, mesh, many=many)


def compile_all(lowered: Iterable[Any]) -> None:
    """Compile everything at once, each as soon as it is lowered; later calls find it."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: one.compile(), lowered))


_TRAINING = ("batch_size", "drop_remainder", "augment", "report", "mesh", "options")


@partial(jax.jit, static_argnames=_TRAINING)
def _train_each(
    states: TrainState,
    train: Split,
    keys: jax.Array,
    *,
    mesh: Mesh,
    part: Any = None,
    **training: Any,
) -> tuple[TrainState, Metrics]:
    """One epoch of each of N networks, each with its own key."""

    def train_one(member: tuple[TrainState, jax.Array], shared: tuple[Split, Any]) -> Any:
        (state, key), (train, part) = member, shared
        return train_epoch(state, train, key, part=part, **training)

    return for_each_member(train_one, (states, keys), (train, part), mesh)
