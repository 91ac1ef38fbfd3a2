"""generate: continue a sequence of tokens by sampling from a language model."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.data.batches import as_key
from jaxrnn.training.forward import compute_outputs
from jaxrnn.training.state import TrainState


@partial(jax.jit, static_argnames=("count", "temperature"))
def generate(
    state: TrainState,
    prompt: jax.Array,
    key: jax.Array,
    *,
    count: int,
    temperature: float = 1.0,
) -> jax.Array:
    r"""Sample the tokens that follow a prompt, one after the other.

    Each is drawn from :math:`\mathrm{softmax}(\mathrm{outputs} / \mathrm{temperature})`, where the
    network has read the prompt and the tokens drawn so far.

    Args:
      state: that of a network that reads tokens forwards and has an output per time step, as with
        :class:`jaxrnn.LanguageModeling`.
      prompt: (time,) tokens, at least one.
      key: PRNG key of the samples.
      count: number of tokens to sample.
      temperature: values below 1 favor likely tokens.

    Returns:
      (count,) int32 tokens.

    Raises:
      ValueError: the network is of another kind.
    """

    def read(tokens: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        outputs, carry = compute_outputs(state, {"inputs": tokens[None]}, carry=carry)
        if outputs.ndim != 3:
            raise ValueError("generate needs a network with an output per time step")
        return outputs[0, -1], carry

    def draw(carried: Any, key: jax.Array) -> Any:
        logits, carry = carried
        token = jax.random.categorical(key, logits / temperature)
        return read(token[None], carry), token

    start = read(jnp.asarray(prompt, jnp.int32), ())
    return jax.lax.scan(draw, start, jax.random.split(as_key(key), count))[1]
