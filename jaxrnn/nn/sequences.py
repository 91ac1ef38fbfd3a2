"""Time-major sequences: masks, directions, the last state, scans and products of all steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax.linen.recurrent import flip_sequences
from jaxtyping import Array, Bool, Float, Int

Steps = Float[Array, "time *batch features"]
State = Float[Array, "*batch hidden"]
States = Float[Array, "time *batch hidden"]
Lengths = Int[Array, "*batch"]
Valid = Bool[Array, "time *batch"]
Scan = Callable[[Steps], tuple[chex.ArrayTree, States]]


def options_of(rnn: Any, *given: bool | None) -> dict[str, Any]:
    """Return the options of a call of a Flax ``RNN``; None stands for that of the module."""
    names = ("return_carry", "time_major", "reverse", "keep_order")
    call = zip(names, given, strict=True)
    return {name: getattr(rnn, name) if value is None else value for name, value in call}


def scan_in_direction(
    scan: Scan,
    steps: Steps,
    lengths: Lengths | None,
    *,
    batch_axes: int,
    select_last: bool,
    return_carry: bool,
    time_major: bool,
    reverse: bool,
    keep_order: bool,
) -> chex.ArrayTree:
    """Run a scan in either direction and return what Flax's RNNs return.

    With ``select_last``, the last state is the one after the last valid time step; otherwise it is
    the one that ``scan`` returns.
    """
    flip = partial(flip_sequences, seq_lengths=lengths, num_batch_dims=batch_axes, time_major=True)
    last, states = scan(flip(steps) if reverse else steps)
    if select_last and return_carry and lengths is not None:
        last = state_at_end(states, lengths)
    states = flip(states) if reverse and keep_order else states
    outputs = jnp.moveaxis(states, 0, 0 if time_major else batch_axes)
    return (last, outputs) if return_carry else outputs


def mask_steps(steps: Steps, lengths: Lengths | None) -> tuple[Steps, Valid | None]:
    """Zero the invalid steps; return them and the mask of valid steps, or None if all are valid."""
    if lengths is None:
        return steps, None
    numbers = jnp.arange(steps.shape[0], dtype=jnp.int32)  # lengths may be of a smaller type
    lengths = jnp.asarray(lengths, jnp.int32)
    valid = jnp.expand_dims(numbers, range(1, lengths.ndim + 1)) < lengths[None]
    return where_valid(valid, steps), valid


def last_valid(last: State, states: States, carry: State, lengths: Lengths | None) -> State:
    """Return the state after the last valid time step, or ``carry`` if there is none."""
    if lengths is None:
        return last
    return where_valid(lengths > 0, state_at_end(states, lengths), carry)


def state_at_end(states: States, lengths: Lengths) -> State:
    """Return the state of each sequence after its last valid time step."""
    batch = states.shape[1 : 1 + lengths.ndim]  # may be symbolic, so jnp.indices would fail
    rows = (jax.lax.broadcasted_iota(jnp.int32, batch, axis) for axis in range(len(batch)))
    return states[(lengths - 1, *rows)]


def steps_at_once(unroll: int, inputs: chex.ArrayTree) -> int:
    """Return ``unroll``, or 1 if the number of time steps is symbolic, as it is in export."""
    return unroll if isinstance(jax.tree.leaves(inputs)[0].shape[0], int) else 1


def where_valid(
    valid: Bool[Array, "*batch"] | None, states: Array, otherwise: Array | float = 0
) -> Array:
    """Replace invalid states (\\*batch, …) by ``otherwise``; None means that all are valid."""
    if valid is None:
        return states
    return jnp.where(jnp.expand_dims(valid, range(valid.ndim, states.ndim)), states, otherwise)


def scan(
    next_state: Callable[[State, chex.ArrayTree], State],
    unroll: int,
    inputs: chex.ArrayTree,
    carry: State,
    valid: Valid | None = None,
) -> tuple[State, States]:
    """Scan a recurrence over its inputs; states that are not ``valid`` are 0."""

    def step(state: State, step_inputs: chex.ArrayTree) -> tuple[State, State]:
        inputs, valid = step_inputs
        state = where_valid(valid, next_state(state, inputs))
        return state, state

    return jax.lax.scan(step, carry, (inputs, valid), unroll=steps_at_once(unroll, inputs))


def project(
    steps: Steps, kernel: Float[Array, "features joined"], bias: Float[Array, "joined"]
) -> Float[Array, "time *batch joined"]:
    """Compute the input projections of all time steps."""
    return map_rows(lambda rows: dense(rows, kernel, bias), steps)


def dense(
    inputs: Float[Array, "*batch features"],
    kernel: Float[Array, "features joined"],
    bias: Float[Array, "joined"],
) -> Float[Array, "*batch joined"]:
    """Apply a dense layer to the last axis of the inputs."""
    return inputs @ kernel + jnp.expand_dims(bias, range(inputs.ndim - 1))


def map_rows(function: Callable[[Array], Array], steps: Steps) -> States:
    """Apply a function of the features to all time steps and examples."""
    mesh = jax.typeof(steps).sharding.mesh
    if any(mesh.shape[name] > 1 for name in (*mesh.auto_axes, *mesh.explicit_axes)):
        return function(steps)  # devices can share a batch only while it is an axis of its own
    # One row per time step and example: one matrix product, and one in each direction back.
    rows = function(steps.reshape(-1, steps.shape[-1]))
    return rows.reshape(*steps.shape[:-1], rows.shape[-1])
