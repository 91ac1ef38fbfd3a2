"""The recurrences as functions, against their equations step by step."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from jaxrnn.nn import elman_scan, gru_scan, linear_scan, lstm_scan
from jaxrnn.nn.linear import _constant_in_parallel, scan_in_order, scan_in_parallel

TIME, FEATURES, HIDDEN = 6, 3, 4


def draw(*shapes):
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes]


def step_elman(inputs, state, kernel, bias, recurrent_kernel, activation=jnp.tanh, residual=False):
    total = inputs @ kernel + bias[None] + state @ recurrent_kernel
    return activation(total + state if residual else total)


def step_gru(inputs, state, kernel, bias, recurrent_kernel, recurrent_bias=None):
    reset, update, new = jnp.split(inputs @ kernel + bias[None], 3, axis=-1)
    of_reset, of_update, of_new = jnp.split(state @ recurrent_kernel, 3, axis=-1)
    of_new = of_new if recurrent_bias is None else of_new + recurrent_bias[None]
    z = nn.sigmoid(update + of_update)
    return (1 - z) * jnp.tanh(new + nn.sigmoid(reset + of_reset) * of_new) + z * state


def step_lstm(inputs, carry, kernel, bias, recurrent_kernel):
    memory, state = jnp.split(carry, 2, axis=-1)
    total = inputs @ kernel + bias[None] + state @ recurrent_kernel
    i, f, g, o = jnp.split(total, 4, axis=-1)
    memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
    return jnp.concatenate([memory, nn.sigmoid(o) * jnp.tanh(memory)], axis=-1)


def joined_lstm_scan(inputs, carry, *weights, **options):
    """With both states in one array."""
    last, states = lstm_scan(inputs, tuple(jnp.split(carry, 2, axis=-1)), *weights, **options)
    return jnp.concatenate(last, axis=-1), states


def step_linear(inputs, state, decay):
    return decay * state + inputs


def loop(step, inputs, carry, *weights, lengths):
    """The last valid state of each of two sequences, and all states."""
    rows = [carry]
    for now in inputs:
        rows.append(step(now, rows[-1], *weights))
    states = jnp.stack(rows)
    return states[lengths, jnp.arange(2)], states[1:]


ELMAN = (FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, HIDDEN)
GRU = (FEATURES, 3 * HIDDEN), (3 * HIDDEN,), (HIDDEN, 3 * HIDDEN)
LSTM = (FEATURES, 4 * HIDDEN), (4 * HIDDEN,), (HIDDEN, 4 * HIDDEN)
relu = {"activation": nn.relu, "residual": True}


@pytest.mark.parametrize("lengths", [None, jnp.array([4, 0])])
@pytest.mark.parametrize(
    ("scan", "step", "shapes"),
    [
        (elman_scan, step_elman, ELMAN),
        (partial(elman_scan, **relu), partial(step_elman, **relu), ELMAN),
        (gru_scan, step_gru, GRU),
        (gru_scan, step_gru, (*GRU, (HIDDEN,))),
        (joined_lstm_scan, step_lstm, LSTM),
    ],
)
def test_scans_are_their_equations_step_by_step(scan, step, shapes, lengths):
    """States after the end don't matter, nor do inputs there, in gradients too."""
    width = 2 * HIDDEN if shapes is LSTM else HIDDEN
    carry, inputs, *weights = draw((2, width), (TIME, 2, FEATURES), *shapes)
    known = jnp.array([TIME, TIME]) if lengths is None else lengths
    valid = (jnp.arange(TIME)[:, None] < known[None])[..., None]

    def loss(function, inputs, *arguments, **options):
        last, states = function(inputs, *arguments, **options)
        states = jnp.where(valid, states[..., -HIDDEN:], 0)
        return jnp.sin(last).sum() + jnp.cos(states).sum(), (last, states)

    def run(function, inputs, **options):
        differentiate = jax.value_and_grad(partial(loss, function), range(4), has_aux=True)
        (_, outputs), gradients = differentiate(inputs, carry, *weights, **options)
        return outputs, jnp.where(valid, gradients[0], 0), gradients[1:]

    damaged = jnp.where(valid, inputs, jnp.nan)
    ours = jax.jit(partial(run, scan))(damaged, lengths=lengths)
    theirs = jax.jit(partial(run, partial(loop, step)))(inputs, lengths=known)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("scan", "shapes"), [(elman_scan, ELMAN), (gru_scan, GRU)])
def test_any_number_of_batch_axes(scan, shapes):
    carry, inputs, *weights = draw((2, 3, HIDDEN), (TIME, 2, 3, FEATURES), *shapes)
    lengths = jnp.array([[1, 2, 3], [0, 5, 6]])
    ours = scan(inputs, carry, *weights, lengths=lengths)
    one = lambda inputs, carry, lengths: scan(inputs, carry, *weights, lengths=lengths)  # noqa: E731
    for axis in (0, 0):
        one = jax.vmap(one, (axis + 1, axis, axis), (axis, axis + 1))
    valid = (jnp.arange(TIME)[:, None, None] < lengths[None])[..., None]
    last, states = one(inputs, carry, lengths)
    chex.assert_trees_all_close(ours[0], last, atol=1e-6)
    chex.assert_trees_all_close(*(jnp.where(valid, of, 0) for of in (ours[1], states)), atol=1e-6)


def test_lengths_of_a_type_smaller_than_the_number_of_time_steps():
    carry, inputs, *weights = draw((2, HIDDEN), (300, 2, FEATURES), *ELMAN)
    lengths = jnp.array([5, 200])
    expected = elman_scan(inputs, carry, *weights, lengths=lengths)
    small = elman_scan(inputs, carry, *weights, lengths=lengths.astype(jnp.uint8))
    chex.assert_trees_all_equal(small, expected)


@pytest.mark.parametrize("lengths", [None, jnp.array([4, 0])])
def test_linear_scan_is_its_equation(lengths):
    carry, decay, inputs = draw((2, HIDDEN), (TIME, 2, HIDDEN), (TIME, 2, HIDDEN))
    known = jnp.array([TIME, TIME]) if lengths is None else lengths
    valid = (jnp.arange(TIME)[:, None] < known[None])[..., None]
    states = [carry]
    for factor, now in zip(decay, inputs, strict=True):
        states.append(factor * states[-1] + now)
    expected = jnp.stack(states)
    damaged = jnp.where(valid, inputs, jnp.nan)
    last, states = linear_scan(decay, damaged, carry, lengths=lengths)
    chex.assert_trees_all_close(last, expected[known, jnp.arange(2)], rtol=1e-5)
    chex.assert_trees_all_close(*(jnp.where(valid, of, 0) for of in (states, expected[1:])))


@pytest.mark.parametrize("scan", [lambda a, b: linear_scan(a, b)[1], scan_in_parallel])
def test_linear_scans_and_their_gradient_agree(scan):
    decay, inputs = draw((TIME, 2, 3), (TIME, 2, 3))

    def value_and_gradients(scan):
        loss = lambda a, b: jnp.sin(scan(a, b)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(decay, inputs)

    results = map(value_and_gradients, (scan, scan_in_order))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def complex_numbers(*shape):
    generator = np.random.default_rng(1)
    return jnp.asarray(0.5 * (generator.normal(size=shape) + 1j * generator.normal(size=shape)))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 2, 3)])
@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_gradients_of_complex_linear_scans_are_finite_differences(shape, platform, monkeypatch):
    choose = lambda *arguments, **scans: scans[platform](*arguments)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    scan = jax.jit(lambda *arguments: linear_scan(*arguments))  # which is traced for each platform
    with jax.enable_x64(True):
        decay, *others = complex_numbers(*shape), complex_numbers(5, 2, 3), complex_numbers(2, 3)
        modes = ("fwd", "rev") if len(shape) < 3 else ("rev",)
        check_grads(scan, (decay, *others), 1, modes)
        everywhere = jnp.broadcast_to(decay, (5, 2, 3))
        results = (scan(decay, *others) for decay in (decay, everywhere))
        chex.assert_trees_all_close(*results)


@pytest.mark.parametrize("time", [1, 2, 28, 1000])
def test_complex_linear_scans_agree(time):
    decay, inputs, carry = complex_numbers(1, 3), complex_numbers(time, 2, 3), complex_numbers(2, 3)
    decay /= jnp.maximum(jnp.abs(decay), 1.0)
    ours = jax.jit(linear_scan)(decay, inputs, carry)[1]
    parallel = jax.jit(_constant_in_parallel)(decay, carry, inputs)
    chex.assert_trees_all_close(ours, parallel, rtol=2e-5, atol=2e-5)
    one = lambda decay: linear_scan(decay, inputs, carry)[1]  # noqa: E731
    many = jax.jit(jax.vmap(one))(decay[None])
    chex.assert_trees_all_close(many[0], ours, rtol=1e-5, atol=1e-5)
