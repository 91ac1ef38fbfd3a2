"""TrainState: everything that training changes, and what it needs to do so."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.training import train_state

from jaxrnn.tasks import Classification, Task


class TrainState(train_state.TrainState):
    """Flax's ``TrainState``, with the task beside ``apply_fn`` and ``tx``."""

    task: Task = struct.field(pytree_node=False, default=Classification())


def create_train_state(
    key: jax.Array | None,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    example: Any,
    task: Task = Classification(),  # noqa: B008
) -> TrainState:
    """Initialize parameters and optimizer state, at step 0.

    Args:
      key: determines the initial parameters; None for their shapes alone, without compiling.
      model: a Flax linen module that maps (batch, time, features) to (batch, width) outputs, or to
        (batch, time, width).
      optimizer: any optax gradient transformation. Create it once and keep it: functions are
        compiled for this very object, and are compiled again for another one, even an equal one.
      example: inputs of the shape to be trained on, (batch, time, features); only time and features
        matter.
      task: what is minimized and measured; it must be hashable.

    Returns:
      A :class:`TrainState`.

    >>> from jaxrnn import RNNClassifier
    >>> state = create_train_state(
    ...     jax.random.key(0), RNNClassifier(), optax.adam(1e-3), jnp.zeros((1, 28, 28))
    ... )
    >>> int(state.step)
    0
    """
    inputs = jnp.zeros((1, *jnp.shape(example)[1:]), jnp.float32)
    if isinstance(key, jax.core.Tracer):  # inside the caller's own jit or vmap
        init: Any = _init
    elif jax.default_backend() == "cpu":
        init = _init_on_cpu
    else:
        init = _init_compiled
    # An array: from a Python integer, whose type differs from that of every later step, the second
    # call of a jitted function would compile again.
    step: Any = jnp.zeros((), jnp.int32)
    if key is None:  # traced as for the initialization that may follow, which then is faster
        params, opt_state = init.eval_shape(model, optimizer, jax.random.key(0), inputs)
        step = jax.ShapeDtypeStruct(step.shape, step.dtype)
    else:
        params, opt_state = init(model, optimizer, key, inputs)
    return TrainState(
        step=step,
        apply_fn=_apply_fn(model),
        params=params,
        tx=optimizer,
        opt_state=opt_state,
        task=task,
    )


def _init(
    model: nn.Module, optimizer: optax.GradientTransformation, key: jax.Array, inputs: jax.Array
) -> tuple[Any, Any]:
    params = model.init(key, inputs)["params"]
    return params, optimizer.init(params)


_init_compiled = jax.jit(_init, static_argnums=(0, 1))
# It runs once, and LLVM would spend two seconds on making it run fast.
_init_on_cpu = jax.jit(
    _init, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0}
)


@lru_cache
def _apply_fn(model: nn.Module) -> Any:
    """One bound method for equal models, so that their states share compiled functions."""
    return model.apply
