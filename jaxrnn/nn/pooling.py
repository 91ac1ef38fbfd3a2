"""Pooling: reduce the states of a sequence to one vector."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def pool(
    states: Float[Array, "batch time hidden"],
    lengths: Int[Array, "batch"] | None,
    how: str,
    bidirectional: bool,
) -> Float[Array, "batch hidden"]:
    """Reduce states over the valid time steps; 0 if there are none.

    ``how`` is ``last``, ``mean`` or ``max``. ``last`` takes the second half of the units of a
    bidirectional network, which reads backwards, at the first time step.
    """
    if how == "last":
        forward, *backward = jnp.split(states, 2, axis=-1) if bidirectional else [states]
        if lengths is None:
            last = forward[:, -1]
        else:
            indices = jnp.maximum(lengths - 1, 0)[:, None, None]
            last = jnp.take_along_axis(forward, indices, axis=1)[:, 0]
        pooled = jnp.concatenate([last, *(states[:, 0] for states in backward)], axis=-1)
    elif lengths is None and how == "mean":
        pooled = states.mean(1)
    else:
        steps = jnp.arange(states.shape[1], dtype=jnp.int32)  # lengths may be of a smaller type
        ends = states.shape[1] if lengths is None else lengths.astype(jnp.int32)[:, None]
        valid = (steps[None] < ends)[..., None]
        if how == "mean":
            count = jnp.maximum(ends, 1).astype(states.dtype)
            pooled = jnp.where(valid, states, 0).sum(1) / count
        else:
            # The derivative of jnp.max compares the states to their maximum. XLA may round the two
            # differently, which loses the gradient.
            places = jnp.where(valid, states, -jnp.inf).argmax(1, keepdims=True)
            pooled = jnp.take_along_axis(states, places, axis=1)[:, 0]
    return pooled if lengths is None else jnp.where(lengths[:, None] > 0, pooled, 0)
