"""Use a trained network: evaluate, predict, generate."""

import contextlib
import operator
from functools import partial, reduce

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from jaxrnn.data.batches import as_key, prepare
from jaxrnn.data.splits import Batch, Split, as_split, take
from jaxrnn.data.streams import Stream
from jaxrnn.training.epochs import Rows, blocks_in_order
from jaxrnn.training.forward import forward, measure_prepared
from jaxrnn.training.metrics import Metrics
from jaxrnn.training.sharding import over_devices
from jaxrnn.training.state import TrainState

_STATES = 2**24  # float32 numbers: 64 MiB


def evaluate(
    state: TrainState,
    examples: Split | Stream,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    outputs: int | None = None,
) -> Metrics:
    """Compute the metrics of a state on a split or on one pass of a stream.

    Pure. Every example counts exactly once, whether or not ``batch_size`` divides their number.

    Args:
      state: from :func:`jaxrnn.create_train_state`.
      examples: at least one. A pair (inputs, labels), or a dict of inputs and labels, lengths or
        targets, is read as a split; a stream is read while earlier batches are measured.
      batch_size: examples of a split at a time; it bounds memory and doesn't change the result. By
        default at most 1000, fewer if sequences are long or the network is wide.
      mesh: devices that share the work, from :func:`jaxrnn.training.sharding.batch_mesh`; state and
        split must be replicated over them. One device by default.
      outputs: upper bound of a stream's labels, exclusive; None to leave them unchecked.

    Returns:
      The :class:`jaxrnn.Metrics` of all examples; ``.means()`` divides them.

    Raises:
      ValueError: there are no examples, a stream leaves some out, ``batch_size`` is below 1, or the
        arrays don't fit each other.

    >>> import optax
    >>> from jaxrnn import RNNModel, create_train_state, load
    >>> test = load("mnist", split="test[:50]")
    >>> state = create_train_state(jax.random.key(0), RNNModel(), optax.adam(1e-3), test.inputs)
    >>> int(evaluate(state, test, batch_size=32).weight), predict(state, test).shape
    (50, (50, 10))
    """
    examples = examples if isinstance(examples, Stream) else as_split(examples)
    measured: list[Metrics] = []
    size = bounded_batch_size(state, examples, batch_size)
    with contextlib.closing(blocks_in_order(examples, size, mesh, outputs)) as blocks:
        for block in blocks:
            jax.block_until_ready(measured[-2:-1])  # waiting blocks take up memory
            measured.append(measure_block(state, *block))
    return reduce(operator.add, measured)


def bounded_batch_size(
    state: TrainState, examples: Split | Stream, batch_size: int | None = None
) -> int:
    """Return the batch size or, by default, one for which the states of a layer fit in 64 MiB."""
    if isinstance(examples, Stream):
        return examples.batch_size
    if batch_size is None:
        leaves = jax.tree.leaves(state.params)
        width = max((leaf.shape[-1] for leaf in leaves if leaf.ndim), default=1)
        return max(1, min(1000, _STATES // max(1, width * examples.inputs.shape[1])))
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1; got {batch_size}")
    return batch_size


@partial(jax.jit, static_argnames="mesh")
def measure_block(
    state: TrainState,
    examples: Split | Batch,
    rows: Rows,
    mesh: Mesh | None = None,
) -> Metrics:
    """Compute metrics on several batches as one XLA program; see :func:`train_block`."""

    def block(state: TrainState, examples: Split | Batch, rows: Rows) -> tuple[None, Metrics]:
        metrics = jax.lax.map(
            lambda row: measure_prepared(state, prepare(take(examples, row)))[0], rows
        )
        return None, jax.tree.map(lambda sums: sums.sum(0), metrics)

    return over_devices(block, state, examples, rows, mesh=mesh)[1]


def predict(
    state: TrainState, split: Split, *, batch_size: int | None = None
) -> Float[Array, "examples *time outputs"]:
    """Compute the outputs of the network for every example of a split, as one XLA program.

    In classification they are logits: ``.argmax(-1)`` gives the predicted classes, and
    ``jax.nn.softmax`` their probabilities. ``batch_size`` and errors are those of :func:`evaluate`,
    except that the split may be empty and needs no labels or targets.

    Returns:
      (N, width) or (N, time, width) outputs, in the order of the split.
    """
    return _predict(state, as_split(split), batch_size=batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _predict(
    state: TrainState, split: Split, *, batch_size: int | None
) -> Float[Array, "examples *time outputs"]:
    count = len(split)
    batches = max(1, -(-count // bounded_batch_size(state, split, batch_size)))
    size = -(-count // batches)
    rows = np.arange(batches * size, dtype=np.int32).clip(max=max(count - 1, 0))
    # The last batch is padded with the last example.
    outputs = jax.lax.map(
        lambda row: forward(state, prepare(take(split, row)))[0], rows.reshape(batches, size)
    )
    return outputs.reshape(batches * size, *outputs.shape[2:])[:count]


@partial(jax.jit, static_argnames=("count", "temperature"))
def generate(
    state: TrainState,
    prompt: Int[Array, " time"],
    key: Key[Array, ""],
    *,
    count: int,
    temperature: float = 1.0,
) -> Int[Array, " count"]:
    r"""Sample tokens that continue a prompt, one at a time.

    Each is drawn from :math:`\mathrm{softmax}(\mathrm{outputs} / \mathrm{temperature})`, with the
    outputs of the network after the prompt and the tokens drawn so far.

    Args:
      state: of a unidirectional network that reads tokens and has an output per time step, as for
        :class:`jaxrnn.LanguageModeling`; others raise ``ValueError``.
      prompt: (time,) tokens, at least one.
      key: PRNG key of the samples.
      count: number of int32 tokens to sample.
      temperature: values below 1 favor likely tokens; 0 always takes the most likely one.
    """
    Carried = tuple[Float[Array, " tokens"], chex.ArrayTree]

    def read(tokens: Int[Array, " time"], carry: chex.ArrayTree) -> Carried:
        outputs, carry = forward(state, {"inputs": tokens[None]}, carry=carry)
        if outputs.ndim != 3:
            raise ValueError("generate needs a network with an output per time step")
        return outputs[0, -1], carry

    def draw(carried: Carried, key: Key[Array, ""]) -> tuple[Carried, Int[Array, ""]]:
        logits, carry = carried
        token = (
            jax.random.categorical(key, logits / temperature) if temperature else logits.argmax()
        )
        return read(token[None], carry), token

    start = read(jnp.asarray(prompt, jnp.int32), ())
    return jax.lax.scan(draw, start, jax.random.split(as_key(key), count))[1]
