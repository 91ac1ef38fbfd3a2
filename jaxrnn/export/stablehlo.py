"""StableHLO: a trained network as one file that JAX runs without this library."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxrnn.training.forward import forward, prepare
from jaxrnn.training.state import TrainState

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(state: TrainState, input_shape: Sequence[int | str]) -> bytes:
    """Serialize a network, weights included, for CPUs, NVIDIA GPUs and TPUs.

    What ``jax.export.deserialize`` returns has a method ``call(inputs)``, or ``call(inputs,
    lengths)``, for any number of examples: inputs are (batch, time, features) float32, with pixels
    scaled to 0 … 1, or (batch, time) int32 tokens, and lengths are (batch,) int32.

    Args:
      state: the trained state.
      input_shape: (time, features), or (time,) for tokens; ``"time"`` for any number of time steps.
    """

    def outputs(*arguments: jax.Array) -> jax.Array:
        batch = dict(zip(("inputs", "lengths"), arguments, strict=False))
        return forward(state, prepare(batch))[0]

    sizes = ", ".join(map(str, ("batch", *input_shape)))
    shape = export.symbolic_shape(sizes, constraints=["time >= 1"] * ("time" in input_shape))
    dtype = jnp.int32 if len(input_shape) == 1 else jnp.float32
    arguments: list[Any] = [jax.ShapeDtypeStruct(shape, dtype)]
    arguments += [jax.ShapeDtypeStruct(shape[:1], jnp.int32)] * ("lengths" in state.takes)
    exported = export.export(jax.jit(outputs), platforms=PLATFORMS)(*arguments)
    return bytes(exported.serialize())
