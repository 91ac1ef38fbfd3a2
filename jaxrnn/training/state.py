"""TrainState: what training changes, and the functions that change it."""

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

# Arguments of a network's call that say whether it is training, and their values if it is.
MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}


class TrainState(train_state.TrainState):
    """Flax's ``TrainState``, with the task and what calling the network requires.

    Attributes:
      task: what is minimized and measured.
      takes: names of the arguments of the network's call; by default none.
      draws: whether training needs PRNG keys.
    """

    task: Task = struct.field(pytree_node=False, default=Classification())
    takes: frozenset[str] = struct.field(pytree_node=False, default=frozenset())
    draws: bool = struct.field(pytree_node=False, default=False)


def create_train_state(
    key: Key[Array, ""] | int | None,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    example: Shaped[chex.Array, "_ time *features"] | jax.ShapeDtypeStruct,
    task: Task = Classification(),  # noqa: B008
) -> TrainState:
    """Initialize parameters and optimizer state, at step 0.

    Args:
      key: PRNG key of the initial parameters, or an integer seed; None to return shapes instead
        of arrays, without compiling.
      model: a Flax linen module that maps (batch, time, features) to (batch, width) outputs, or to
        (batch, time, width). If its call takes ``train``, ``training``, ``is_training`` or
        ``deterministic``, that is set in training and in evaluation, and ``nn.Dropout`` and
        ``make_rng`` get their random numbers; if it takes ``keys``, these are a key for each
        example in training.
      optimizer: any optax gradient transformation that needs no more than gradients, parameters
        and the value of the loss. Create it once and keep it: functions are
        compiled for this object, and again for any other, even an equal one.
      example: inputs of the shape to be trained on, (batch, time, features) or (batch, time) of
        tokens; only the shape after the first axis matters.
      task: what is minimized and measured; it must be hashable.

    Returns:
      A :class:`TrainState`.

    Raises:
      ValueError: the model has variables other than ``params``, such as batch statistics; or the
        optimizer needs the function to minimize, as line searches do.

    >>> from jaxrnn import RNNModel
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNModel(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> int(state.step)
    0
    """
    inputs = jnp.asarray(blank_example(example))
    if key is not None:
        key = as_key(key)
    hashable = _is_hashable(model)
    static = (model, optimizer) if hashable else ()
    init = _init_on_cpu if jax.default_backend() == "cpu" else _init_compiled
    if not hashable:  # with an attribute that is a list, say
        init = jax.jit(partial(_init, model, optimizer))
    # An array, as the type of a Python integer differs from that of every later step, so that the
    # second call of a jitted function would compile again.
    step: Any = jnp.zeros((), jnp.int32)
    if key is None:  # traced as in initialization, which is faster if it follows
        params, opt_state = init.eval_shape(*static, jax.random.key(0), inputs)
        step = jax.ShapeDtypeStruct(step.shape, step.dtype)
    elif isinstance(key, jax.core.Tracer):  # inside the caller's own jit or vmap
        params, opt_state = _init(model, optimizer, key, inputs)
    else:
        params, opt_state = init(*static, key, inputs)
    takes = frozenset(inspect.signature(model.__call__).parameters)
    return TrainState(
        step=step,
        apply_fn=_apply_fn(model) if hashable else model.apply,
        params=params,
        tx=optimizer,
        opt_state=opt_state,
        task=task,
        takes=takes,
        draws=bool(getattr(model, "draws", takes & {*MODES, "keys"})),
    )


def mode_options(takes: Container[str], *, train: bool) -> dict[str, Any]:
    """Return the arguments of the network's call that turn dropout on or off."""
    return {name: mode == train for name, mode in MODES.items() if name in takes}


def _init(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    inputs: Shaped[Array, "1 time *features"],
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    takes = inspect.signature(model.__call__).parameters
    variables = model.init(key, inputs, **mode_options(takes, train=False))
    if others := ", ".join(sorted(set(variables) - {"params"})):
        raise ValueError(f"the model has variables other than params, which are not kept: {others}")
    params = variables.get("params", {})
    opt_state = optimizer.init(params)
    if isinstance(optimizer, optax.GradientTransformationExtraArgs):
        update = partial(optimizer.update, value=jnp.zeros(()), grad=params)
        try:
            jax.eval_shape(update, params, opt_state, params)
        except TypeError as error:
            given = "a step gives the optimizer gradients, parameters and the value"
            raise ValueError(f"{given}, but {error}") from error
    return params, opt_state


_init_compiled = jax.jit(_init, static_argnums=(0, 1))
# It runs once, and LLVM would take two seconds to optimize it.
_init_on_cpu = jax.jit(
    _init, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0}
)


def _is_hashable(model: nn.Module) -> bool:
    try:
        hash(model)
    except TypeError:
        return False
    return True


@lru_cache
def _apply_fn(model: nn.Module) -> Any:
    """Return one bound method for equal models, so that their states share compiled functions."""
    return model.apply
