"""RNNModel against the recurrence written out by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrnn import RNNModel
from jaxrnn.nn.cells import CELLS

INPUTS = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
LENGTHS = np.array([7, 1, 3, 0, 6], np.int32)


def init(model, inputs=INPUTS, seed=0):
    return jax.jit(model.init)(jax.random.key(seed), inputs)["params"]


def states_by_hand(params, inputs):
    """Every state of the Elman network, step by step, in float64."""
    kernel, bias = (np.asarray(params["i"][name], float) for name in ("kernel", "bias"))
    recurrent = np.asarray(params["h"]["kernel"], float)
    state = np.zeros((len(inputs), len(bias)))
    states = [state]
    for step in range(inputs.shape[1]):
        state = np.tanh(inputs[:, step] @ kernel + bias + state @ recurrent)
        states.append(state)
    return np.stack(states, axis=1)  # (batch, time + 1, hidden), the zero state first


def head_by_hand(params, state):
    return state @ np.asarray(params["head"]["kernel"], float) + np.asarray(params["head"]["bias"])


def test_parameter_count():
    params = init(RNNModel(), np.zeros((1, 28, 28), np.float32))
    assert jax.tree.map(jnp.shape, params) == {
        "layer0": {"i": {"kernel": (28, 150), "bias": (150,)}, "h": {"kernel": (150, 150)}},
        "head": {"kernel": (150, 10), "bias": (10,)},
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 28_360


@pytest.mark.parametrize("time", [1, 4, 7])  # fewer, as many and more steps than one unrolled loop
def test_against_a_hand_unrolled_cell(time):
    model = RNNModel(hidden=6, outputs=4)
    params = init(model)
    params["layer0"]["i"]["bias"] = jnp.linspace(-1, 1, 6)  # zero at the start, so set it
    inputs = INPUTS[:, :time]
    expected = head_by_hand(params, states_by_hand(params["layer0"], inputs)[:, -1])
    np.testing.assert_allclose(model.apply({"params": params}, inputs), expected, atol=1e-6)


@pytest.mark.program
def test_both_recurrences_agree():
    inputs = jnp.asarray(INPUTS)
    params = init(RNNModel(hidden=6))
    for options in ({}, {"bidirectional": True, "layers": 2}):
        models = [RNNModel(hidden=6, recurrence=name, **options) for name in ("fast", "flax")]
        params = init(models[0])
        for a, b in zip(*map(jax.tree.leaves, (params, init(models[1]))), strict=True):
            np.testing.assert_array_equal(a, b)
        logits = [model.apply({"params": params}, inputs, LENGTHS) for model in models]
        np.testing.assert_allclose(*logits, atol=1e-6)


def test_lengths_classify_the_last_valid_state():
    model = RNNModel(hidden=6, outputs=4)
    params = init(model)
    states = states_by_hand(params["layer0"], INPUTS)[np.arange(5), LENGTHS]
    logits = model.apply({"params": params}, INPUTS, LENGTHS)
    np.testing.assert_allclose(logits, head_by_hand(params, states), atol=1e-6)


@pytest.mark.program
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_do_not_depend_on_what_follows_the_valid_steps(cell):
    model = RNNModel(hidden=4, cell=cell, bidirectional=True)
    padding = np.arange(7)[None, :, None] >= LENGTHS[:, None, None]

    @jax.jit
    def gradient(params, inputs):
        loss = lambda params: model.apply({"params": params}, inputs, LENGTHS).sum()  # noqa: E731
        return jax.grad(loss)(params)

    params = init(model)
    damaged = np.where(padding, np.nan, INPUTS).astype(np.float32)
    gradients = [gradient(params, inputs) for inputs in (INPUTS, damaged)]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.program
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"layers": 2, "bidirectional": True}])
def test_what_follows_the_valid_steps_does_not_matter(cell, options):
    model = RNNModel(hidden=4, cell=cell, **options)
    variables = {"params": init(model)}
    apply = jax.jit(model.apply)
    padding = np.arange(7)[None, :, None] >= LENGTHS[:, None, None]
    logits = apply(variables, INPUTS, LENGTHS)
    for value in (1e3, np.inf, np.nan):
        damaged = np.where(padding, value, INPUTS).astype(np.float32)
        np.testing.assert_array_equal(logits, apply(variables, damaged, LENGTHS))
    for row in (1, 2, 4):  # the same as each sequence alone, cut to its length
        alone = apply(variables, INPUTS[row : row + 1, : LENGTHS[row]])
        np.testing.assert_allclose(logits[row : row + 1], alone, atol=1e-5)


def test_bidirectional_joins_both_last_states():
    model = RNNModel(hidden=6, outputs=4, bidirectional=True)
    params = init(model)
    forwards = states_by_hand(params["layer0"], INPUTS)[:, -1]
    backwards = states_by_hand(params["layer0_backward"], INPUTS[:, ::-1])[:, -1]
    expected = head_by_hand(params, np.concatenate([forwards, backwards], axis=-1))
    np.testing.assert_allclose(model.apply({"params": params}, INPUTS), expected, atol=1e-6)


def test_layers_read_the_states_below():
    model = RNNModel(hidden=6, outputs=4, layers=2)
    params = init(model)
    below = states_by_hand(params["layer0"], INPUTS)[:, 1:]
    expected = head_by_hand(params, states_by_hand(params["layer1"], below)[:, -1])
    np.testing.assert_allclose(model.apply({"params": params}, INPUTS), expected, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_cells_by_name_and_as_objects(name):
    inputs = np.zeros((2, 5, 3), np.float32)
    by_name = init(RNNModel(hidden=4, cell=name), inputs)
    by_object = init(RNNModel(cell=CELLS[name](4)), inputs)
    assert jax.tree.map(jnp.shape, by_name) == jax.tree.map(jnp.shape, by_object)


def test_each_layer_and_direction_has_its_own_copy_of_a_cell_object():
    params = init(RNNModel(cell=nn.GRUCell(4), layers=2, bidirectional=True))
    names = {"layer0", "layer0_backward", "layer1", "layer1_backward"}
    assert set(params) == names | {"head"}
    kernels = [np.asarray(params[name]["hn"]["kernel"]) for name in sorted(names)]
    assert all((a != b).any() for a, b in itertools.pairwise(kernels))


def test_keras_initializers():
    params = init(RNNModel(hidden=300, outputs=10), np.zeros((1, 1, 50), np.float32))
    kernel = np.asarray(params["layer0"]["i"]["kernel"])
    limit = np.sqrt(6 / (50 + 300))
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    recurrent = np.asarray(params["layer0"]["h"]["kernel"])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(300), atol=1e-5)
    head = np.asarray(params["head"]["kernel"])
    assert 0.99 * np.sqrt(6 / 310) < np.abs(head).max() <= np.sqrt(6 / 310)
    assert not params["layer0"]["i"]["bias"].any()
    assert not params["head"]["bias"].any()


def test_tf1_initializers():
    model = RNNModel(hidden=300, initializers="tf1")
    params = init(model, np.zeros((1, 1, 50), np.float32))
    limit = np.sqrt(6 / (50 + 300 + 300))  # of the joint kernel, (50 + 300, 300)
    for name in ("i", "h"):
        kernel = np.asarray(params["layer0"][name]["kernel"])
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert not params["layer0"]["i"]["bias"].any()


@pytest.mark.program
def test_gradient_against_finite_differences():
    with jax.enable_x64(True):
        cell = nn.SimpleCell(5, dtype=jnp.float64, param_dtype=jnp.float64)
        model = RNNModel(cell=cell, outputs=3)
        inputs = jnp.asarray(INPUTS, jnp.float64)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), init(model))
        direction = jax.tree.map(jnp.cos, params)

        def loss(step):
            moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
            return jnp.sin(model.apply({"params": moved}, inputs, LENGTHS)).sum()

        difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(loss)(0.0), difference, rtol=1e-7)


@pytest.mark.parametrize(
    ("options", "inputs", "lengths", "message"),
    [
        (
            {"cell": "elman"},
            INPUTS,
            None,
            "cell must be one of simple, gru, lstm, mgu, mingru; got 'elman'",
        ),
        ({"hidden": 0}, INPUTS, None, "hidden must be at least 1; got 0"),
        ({"layers": 0}, INPUTS, None, "layers must be at least 1; got 0"),
        ({"outputs": -1}, INPUTS, None, "outputs must be at least 1; got -1"),
        (
            {"recurrence": "slow"},
            INPUTS,
            None,
            "recurrence must be one of fast, flax; got 'slow'",
        ),
        (
            {"initializers": "he"},
            INPUTS,
            None,
            "initializers must be one of keras, tf1, identity",
        ),
        ({}, INPUTS[0], None, r"inputs must be \(batch, time, features\), or .* \(7, 3\)"),
        ({}, INPUTS[:, :0], None, r"got shape \(5, 0, 3\)"),
        ({}, INPUTS, LENGTHS[:2], r"lengths must be of shape \(5,\); got \(2,\)"),
    ],
)
def test_bad_input(options, inputs, lengths, message):
    with pytest.raises(ValueError, match=message):
        RNNModel(**options).init(jax.random.key(0), inputs, lengths)


def test_every_step_classifies_every_state():
    model = RNNModel(hidden=6, outputs=4)
    params = init(model)
    logits = model.apply({"params": params}, INPUTS, every_step=True)
    expected = head_by_hand(params, states_by_hand(params["layer0"], INPUTS)[:, 1:])
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_identity_and_gain():
    def kernels(**options):
        model = RNNModel(hidden=6, **options)
        params = model.init(jax.random.key(0), jnp.zeros((1, 5, 4)))["params"]
        return params["layer0"]["h"]["kernel"], params["layer0"]["i"]["kernel"]

    np.testing.assert_array_equal(kernels(initializers="identity")[0], np.eye(6))
    np.testing.assert_array_equal(
        kernels(initializers="identity", recurrent_gain=0.5)[0], np.eye(6) / 2
    )
    recurrent, of_inputs = kernels(recurrent_gain=2.0)
    np.testing.assert_allclose(recurrent @ recurrent.T, 4 * np.eye(6), atol=1e-5)
    np.testing.assert_array_equal(of_inputs, kernels()[1])


class Projecting(nn.RNNCellBase):
    """A cell whose output is not its carry."""

    @nn.compact
    def __call__(self, carry, inputs):
        carry = jnp.tanh(carry + inputs.sum(-1, keepdims=True))
        return carry, nn.Dense(7)(carry)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], 4))

    @property
    def num_feature_axes(self):
        return 1


def test_the_head_reads_outputs_and_not_carries():
    model, inputs = RNNModel(cell=Projecting()), jnp.ones((2, 5, 3))
    variables = model.init(jax.random.key(0), inputs)
    assert variables["params"]["head"]["kernel"].shape == (7, 10)
    np.testing.assert_allclose(
        model.apply(variables, inputs), model.apply(variables, inputs, jnp.full(2, 5)), atol=1e-6
    )
