"""TrainState: what training changes, and the functions that change it."""

import contextlib
import inspect
from collections.abc import Container
from functools import lru_cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.training import train_state
from jaxtyping import Array, Key, Shaped

from jaxrnn.data.batches import as_key
from jaxrnn.data.splits import blank_example
from jaxrnn.training.tasks import Classification, Task

# Arguments of a network's call that select training mode, and their values in training.
MODES = {
    **{"train": True, "training": True, "is_training": True, "is_train": True},
    **{"enable_dropout": True, "deterministic": False, "inference": False},
}


class TrainState(train_state.TrainState):
    """Flax's ``TrainState``, with the task: what is minimized and measured."""

    task: Task = struct.field(pytree_node=False, default=Classification())

    @property
    def model(self) -> Any:
        """The linen module, or the ``NNXNetwork`` of an NNX module; None for other functions."""
        return getattr(self.apply_fn, "__self__", None)

    @property
    def takes(self) -> frozenset[str]:
        """Names of the arguments of the network's call."""
        return _arguments(self.model)

    @property
    def draws(self) -> bool:
        """Whether training needs PRNG keys."""
        random = self.takes & {*MODES, "keys"}
        return bool(getattr(self.model, "draws", random))


def create_train_state(
    key: Key[Array, ""] | int | None,
    model: Any,
    optimizer: optax.GradientTransformation,
    example: Shaped[chex.Array, "_ time *features"] | jax.ShapeDtypeStruct,
    task: Task = Classification(),  # noqa: B008
) -> TrainState:
    """Initialize parameters and optimizer state, at step 0.

    Args:
      key: PRNG key of the initial parameters, or an integer seed; None for a state of shapes.
      model: a Flax linen or NNX module that maps (batch, time, features) to (batch, width)
        outputs, or to (batch, time, width). If its call takes ``train``, ``training``,
        ``is_training``, ``is_train``, ``enable_dropout``, ``deterministic`` or ``inference``, this
        is set for training or evaluation, and ``nn.Dropout`` and ``make_rng`` get random numbers;
        by no other name is dropout turned on. If it takes ``keys``, it gets a key for each example
        in training; ``lengths`` are those of the examples, if they have any. An NNX module already
        has its parameters, so ``key`` is unused; :func:`jaxrnn.training.merged` returns the trained
        module.
      optimizer: any optax gradient transformation that needs no more than gradients, parameters
        and the value of the loss. Create it once and keep it: functions are
        compiled for this object, and again for any other, even an equal one.
      example: inputs of the shape to be trained on, (batch, time, features) or (batch, time) of
        tokens; only the shape after the first axis matters.
      task: what is minimized and measured; it must be hashable.

    Returns:
      A :class:`TrainState`.

    Raises:
      ValueError: the model has variables other than ``params``, such as batch statistics.

    >>> from jaxrnn import RNNModel
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNModel(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> int(state.step)
    0
    """
    network = model
    if not isinstance(model, nn.Module):
        from jaxrnn.nn.nnx_network import NNXNetwork  # slow to import

        network = NNXNetwork(model)
    init: Any = partial(_init, network, optimizer)
    with contextlib.suppress(TypeError):  # not hashable, for example because an attribute is a list
        network = _same(network)
        # Not for an NNX module, as equal ones may have other parameters, nor inside the caller's
        # own jit or vmap.
        if isinstance(model, nn.Module) and not isinstance(key, jax.core.Tracer):
            init = _compiled_init(network, optimizer)
    inputs = jnp.asarray(blank_example(example))
    if key is None:  # traced as in initialization, which is faster if it follows
        step, params, opt_state = jax.eval_shape(init, jax.random.key(0), inputs)
    else:
        step, params, opt_state = init(as_key(key), inputs)
    return TrainState(step, network.apply, params, optimizer, opt_state, task)


def merged(state: TrainState) -> Any:
    """Return the NNX module of a state, with the parameters of the state."""
    if not hasattr(state.model, "merge"):
        raise ValueError("merged requires the state of an nnx.Module; others have state.params")
    return state.model.merge(state.params)


def mode_options(takes: Container[str], *, train: bool) -> dict[str, Any]:
    """Return the arguments of the network's call that turn dropout on or off."""
    return {name: mode == train for name, mode in MODES.items() if name in takes}


def _arguments(model: Any) -> frozenset[str]:
    if not isinstance(model, nn.Module):
        return getattr(model, "arguments", frozenset())
    return frozenset(inspect.signature(model.__call__).parameters)


def _init(
    network: Any,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    inputs: Shaped[Array, "1 time *features"],
) -> tuple[chex.ArrayTree, chex.ArrayTree, chex.ArrayTree]:
    variables: Any = {"params": getattr(network, "params", None)}  # those of an NNX module
    if isinstance(network, nn.Module):
        variables = network.init(key, inputs, **mode_options(_arguments(network), train=False))
    if others := ", ".join(sorted(set(variables) - {"params"})):
        raise ValueError(f"the model has unsupported variables other than params: {others}")
    params = variables.get("params", {})
    # An array, as the type of a Python integer differs from that of every later step, so that the
    # second call of a jitted function would compile again.
    return jnp.zeros((), jnp.int32), params, optimizer.init(params)


@lru_cache
def _compiled_init(model: nn.Module, optimizer: optax.GradientTransformation) -> jax.stages.Wrapped:
    # It runs once, and on a CPU, LLVM would take two seconds to optimize it.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(partial(_init, model, optimizer), compiler_options=fast)


@lru_cache
def _same(model: Any) -> Any:
    """Return one object for equal models, so that their states share compiled functions."""
    return model
