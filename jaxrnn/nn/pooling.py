"""Pooling: reduce the states of a sequence to one vector."""

import jax
import jax.numpy as jnp

POOLINGS = ("last", "mean", "max", "none")


def pool(
    states: jax.Array, lengths: jax.Array | None, how: str, *, bidirectional: bool = False
) -> jax.Array:
    """Reduce states over their valid time steps to (batch, hidden); 0 where there are none.

    Args:
      states: (batch, time, hidden).
      lengths: (batch,), the number of valid time steps; None if all are.
      how: ``last``, ``mean`` or ``max``; or ``none``, which returns the states.
      bidirectional: whether the second half of the units reads backwards, so that its last state is
        the one at the first time step.
    """
    if how == "none":
        return states
    if how == "last" and bidirectional:
        forward, backward = jnp.split(states, 2, axis=-1)
        return jnp.concatenate([_last(forward, lengths), _first(backward, lengths)], axis=-1)
    if how == "last":
        return _last(states, lengths)
    if lengths is None:
        return states.mean(1) if how == "mean" else states.max(1)
    steps = jnp.arange(states.shape[1], dtype=lengths.dtype)
    valid = (steps[None] < lengths[:, None])[..., None]
    if how == "mean":
        total = jnp.where(valid, states, 0).sum(1)
        return total / jnp.maximum(lengths, 1).astype(states.dtype)[:, None]
    return _unless_empty(jnp.where(valid, states, -jnp.inf).max(1), lengths)


def _last(states: jax.Array, lengths: jax.Array | None) -> jax.Array:
    if lengths is None:
        return states[:, -1]
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    return _unless_empty(jnp.take_along_axis(states, last, axis=1)[:, 0], lengths)


def _first(states: jax.Array, lengths: jax.Array | None) -> jax.Array:
    return states[:, 0] if lengths is None else _unless_empty(states[:, 0], lengths)


def _unless_empty(read: jax.Array, lengths: jax.Array) -> jax.Array:
    return jnp.where(lengths[:, None] > 0, read, 0)
