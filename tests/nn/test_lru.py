"""Linear recurrent units against their cell step by step, their initialization and blocks."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxrnn import RNN, Adam, RNNModel, create_train_state
from jaxrnn.export import to_stablehlo
from jaxrnn.nn import LRUCell

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(5, 7, 3)).astype(np.float32)
CARRY = (RNG.normal(size=(5, 4)) + 1j * RNG.normal(size=(5, 4))).astype(np.complex64)
LENGTHS = np.array([7, 1, 3, 0, 6])
PADDING = np.arange(7)[None, :, None] >= LENGTHS[:, None, None]


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        *((lengths, {}) for lengths in (None, LENGTHS)),
        *((lengths, {"reverse": True, "keep_order": True}) for lengths in (None, LENGTHS)),
        (LENGTHS, {"mask": True}),
    ],
)
def test_layer_is_its_cell_step_by_step(options, lengths):
    call = {"seq_lengths": lengths, "initial_carry": CARRY, "return_carry": True}
    fast, slow = (RNN(LRUCell(4), fast=fast, **options) for fast in (True, False))
    variables = fast.init(jax.random.key(0), INPUTS)
    chex.assert_trees_all_equal(variables, slow.init(jax.random.key(0), INPUTS))
    results = [jax.jit(partial(rnn.apply, **call))(variables, INPUTS) for rnn in (fast, slow)]
    if lengths is not None and "mask" in options:
        results = [(last, jnp.where(PADDING, 0, outputs)) for last, outputs in results]
    if lengths is not None and not options:  # Flax has no state of an empty sequence
        results = [jax.tree.map(lambda leaf: np.delete(leaf, 3, 0), result) for result in results]
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-5)


def test_cell_is_its_equation():
    cell = LRUCell(4)
    variables = cell.init(jax.random.key(0), CARRY, INPUTS[:, 0])
    state, outputs = cell.apply(variables, CARRY, INPUTS[:, 0])
    weights = {name: np.asarray(leaf, float) for name, leaf in variables["params"].items()}
    decay = np.exp(-np.exp(weights["lru_nu"]) + 1j * np.exp(weights["lru_theta"]))
    inputs, of_state = (
        weights[f"{name}_re"] + 1j * weights[f"{name}_im"] for name in ("lru_B", "C")
    )
    expected = decay * CARRY + np.exp(weights["lru_gamma"]) * (INPUTS[:, 0] @ inputs)
    read = (expected @ of_state).real + weights["D"] * INPUTS[:, 0]
    chex.assert_trees_all_close((state, outputs), (expected, read), rtol=1e-5, atol=1e-5)


def test_decays_are_uniform_on_a_ring():
    cell = LRUCell(20_000, r_min=0.5, r_max=0.9, max_phase=1.0)
    carry = cell.initialize_carry(jax.random.key(0), (1, 2))
    params = jax.jit(cell.init)(jax.random.key(0), carry, jnp.zeros((1, 2)))["params"]
    area = np.exp(-2 * np.exp(params["lru_nu"].astype(float)))  # is uniform in r²
    phase = np.exp(params["lru_theta"].astype(float))
    for values, low, high in ((area, 0.25, 0.81), (phase, 0.0, 1.0)):
        assert low - 1e-6 <= values.min() < values.max() <= high + 1e-6
        chex.assert_trees_all_close(
            np.quantile(values, [0.25, 0.5, 0.75]),
            low + (high - low) * np.array([0.25, 0.5, 0.75]),
            atol=0.02,
        )
    np.testing.assert_allclose(np.exp(2 * params["lru_gamma"]), 1 - area, rtol=1e-4)
    np.testing.assert_allclose(params["lru_B_re"].std(), 0.5, rtol=0.02)
    np.testing.assert_allclose(params["C_im"].std(), 20_000**-0.5, rtol=0.02)


def test_block_has_the_parameters_of_the_paper():
    model = RNNModel(hidden=64, cell="lru", layers=2)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 784, 1)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 50_954


def test_gradient_of_a_network_is_a_finite_difference():
    with jax.enable_x64(True):
        model = RNN(LRUCell(4, param_dtype=jnp.float64), mask=True)
        inputs = jnp.asarray(INPUTS, jnp.float64)
        variables = model.init(jax.random.key(0), inputs)
        apply = lambda variables, inputs: model.apply(variables, inputs, seq_lengths=LENGTHS + 1)  # noqa: E731
        check_grads(jax.jit(apply), (variables, inputs), 1)


def test_export_for_any_number_of_sequences_and_time_steps():
    model = RNNModel(4, 6, "lru", layers=2, pooling="mean")
    state = create_train_state(0, model, Adam().build(), INPUTS)
    exported = jax.export.deserialize(bytearray(to_stablehlo(state, ("time", 3))))
    for inputs, lengths in ((INPUTS, LENGTHS), (INPUTS[:2, :4], np.array([4, 0]))):
        expected = jax.jit(model.apply)({"params": state.params}, inputs, lengths)
        outputs = exported.call(inputs, lengths.astype(np.int32))
        chex.assert_trees_all_close(outputs, expected, atol=1e-5)


def test_dropout_of_a_block_is_that_of_units():
    model = RNNModel(64, 6, "lru", dropout=0.5, pooling="none")
    params = jax.jit(model.init)(jax.random.key(0), INPUTS)["params"]
    params["gate0"]["kernel"] *= 0
    params["gate0"]["bias"] += 1.0
    params["head"]["kernel"] = jnp.eye(64, 6)
    constant = np.zeros_like(INPUTS)
    keys = jax.random.split(jax.random.key(1), 5)
    outputs = model.apply({"params": params}, constant, keys=keys)
    chex.assert_trees_all_close(outputs, jnp.broadcast_to(outputs[:, :1], outputs.shape))
    assert len(np.unique(np.round(outputs, 4))) == 2
