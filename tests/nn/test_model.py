"""RNNModel against the recurrence written out by hand, and its options."""

import itertools
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrnn import RNNConfig, RNNModel
from jaxrnn.nn.cells import CELLS
from jaxrnn.nn.dropout import drop

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(5, 7, 3)).astype(np.float32)
TOKENS = RNG.integers(0, 6, (5, 7), np.uint8)
LENGTHS = np.array([7, 1, 3, 0, 6], np.int32)
PADDING = np.arange(7)[None, :, None] >= LENGTHS[:, None, None]
KEYS = jax.random.split(jax.random.key(1), 5)
close = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


@cache
def build(tokens=False, **options):
    """Return random parameters of a network and a compiled function of the inputs and the rest."""
    model = RNNModel(**{"hidden": 4, "outputs": 6, **options})
    example = TOKENS if tokens else INPUTS
    shapes = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: draw(0, 0.5, leaf.shape).astype(leaf.dtype), shapes)
    apply = jax.jit(model.apply, static_argnames=("every_step", "return_carry"))
    return params, partial(apply, {"params": params})


def states_by_hand(params, inputs):
    """Every state of an Elman network, step by step, in float64."""
    kernel, bias = (np.asarray(params["i"][name], float) for name in ("kernel", "bias"))
    recurrent = np.asarray(params["h"]["kernel"], float)
    states = [np.zeros((len(inputs), len(bias)))]
    for step in range(inputs.shape[1]):
        states.append(np.tanh(inputs[:, step] @ kernel + bias + states[-1] @ recurrent))
    return np.stack(states[1:], axis=1)


def head_by_hand(params, states):
    return states @ np.asarray(params["head"]["kernel"], float) + np.asarray(params["head"]["bias"])


def test_parameter_count():
    params = jax.eval_shape(RNNModel().init, jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "layer0": {"i": {"kernel": (28, 150), "bias": (150,)}, "h": {"kernel": (150, 150)}},
        "head": {"kernel": (150, 10), "bias": (10,)},
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 28_360


@pytest.mark.parametrize(
    ("time", "lengths", "options"),
    [
        *((time, None, {}) for time in (1, 4, 7)),  # less, as much and more than is unrolled
        (7, LENGTHS, {}),
        (7, None, {"layers": 2}),
        (7, None, {"bidirectional": True}),
    ],
)
def test_outputs_are_those_of_the_recurrence_by_hand(time, lengths, options):
    params, apply = build(**options)
    inputs = states = INPUTS[:, :time]
    for layer in range(options.get("layers", 1)):
        below, states = states, states_by_hand(params[f"layer{layer}"], states)
    last = states[:, -1]
    if lengths is not None:
        last = np.where(lengths[:, None] > 0, states[np.arange(5), lengths - 1], 0)
    if "bidirectional" in options:
        backward = states_by_hand(params["layer0_backward"], below[:, ::-1])
        last = np.concatenate([last, backward[:, -1]], axis=-1)
        states = np.concatenate([states, backward[:, ::-1]], axis=-1)
    close(apply(inputs, lengths), head_by_hand(params, last))
    if lengths is None:
        close(apply(inputs, every_step=True), head_by_hand(params, states))


@pytest.mark.program
@pytest.mark.parametrize("options", [{"activation": "relu"}, {"bidirectional": True, "layers": 2}])
def test_both_recurrences_agree(options):
    fast, flax = (build(recurrence=name, **options)[1] for name in ("fast", "flax"))
    close(fast(INPUTS, LENGTHS), flax(INPUTS, LENGTHS))


@pytest.mark.program
@pytest.mark.parametrize(
    ("cell", "block"),
    [
        *((cell, False) for cell in CELLS),  # lru is always a block
        *(("gru", True), ("mingru", True)),
        (nn.SimpleCell(4, activation_fn=nn.gelu, residual=True), False),
    ],
)
def test_padding_does_not_matter(cell, block):
    options = {"cell": cell, "layers": 2, "bidirectional": True, "block": block}
    model, (params, apply) = RNNModel(hidden=4, outputs=6, **options), build(**options)

    @jax.jit
    def outputs_and_gradient(inputs):
        def loss(params):
            outputs = model.apply({"params": params}, inputs, LENGTHS)
            return outputs.sum(), outputs

        return jax.grad(loss, has_aux=True)(params)

    expected = outputs_and_gradient(INPUTS)
    for value in (1e3, np.inf, np.nan):
        damaged = np.where(PADDING, value, INPUTS).astype(np.float32)
        chex.assert_trees_all_equal(outputs_and_gradient(damaged), expected)
    close(expected[1][4:], apply(INPUTS[4:, : LENGTHS[4]]))  # alone, cut to its length


@pytest.mark.parametrize("name", CELLS)
def test_cells_by_name_and_as_objects(name):
    params = [
        jax.eval_shape(model.init, jax.random.key(0), INPUTS)
        for model in (
            RNNModel(hidden=4, cell=name),
            RNNModel(hidden=4, cell=CELLS[name](4), block=name == "lru"),
        )
    ]
    chex.assert_trees_all_equal_shapes_and_dtypes(*params)


def test_each_layer_and_direction_has_its_own_copy_of_a_cell_object():
    model = RNNModel(cell=nn.GRUCell(4), layers=2, bidirectional=True)
    params = jax.jit(model.init)(jax.random.key(0), INPUTS)["params"]
    names = {"layer0", "layer0_backward", "layer1", "layer1_backward"}
    assert set(params) == names | {"head"}
    kernels = [np.asarray(params[name]["hn"]["kernel"]) for name in sorted(names)]
    assert all((a != b).any() for a, b in itertools.pairwise(kernels))


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


def test_head_reads_outputs_and_not_carries():
    params, apply = build(cell=Projecting())
    chex.assert_shape(params["head"]["kernel"], (7, 6))
    close(apply(INPUTS), apply(INPUTS, np.full(5, 7)))


@pytest.mark.program
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_gradient_against_finite_differences(lengths):
    with jax.enable_x64(True):
        cell = nn.SimpleCell(5, dtype=jnp.float64, param_dtype=jnp.float64)
        model = RNNModel(cell=cell, outputs=3)
        inputs = jnp.asarray(INPUTS, jnp.float64)
        params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

        @jax.jit
        def loss(step):
            moved = jax.tree.map(lambda leaf: leaf + step * jnp.cos(leaf), params)
            return jnp.sin(model.apply({"params": moved}, inputs, lengths)).sum()

        difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(loss)(0.0), difference, rtol=1e-7)


@pytest.mark.parametrize(
    ("options", "inputs", "lengths", "message"),
    [
        (
            {"cell": "elman"},
            INPUTS,
            None,
            "one of simple, gru, lstm, mgu, mingru, lru; got 'elman'",
        ),
        ({"hidden": 0}, INPUTS, None, "hidden must be at least 1; got 0"),
        ({"outputs": -1}, INPUTS, None, "outputs must be at least 1; got -1"),
        ({"recurrence": "slow"}, INPUTS, None, "recurrence must be one of fast, flax; got 'slow'"),
        ({"initializers": "he"}, INPUTS, None, "initializers must be one of keras, tf1, identity"),
        ({}, INPUTS[0], None, r"inputs must be \(batch, time, features\), or .* \(7, 3\)"),
        ({}, INPUTS[:, :0], None, r"got shape \(5, 0, 3\)"),
        ({}, INPUTS, LENGTHS[:2], r"lengths must be of shape \(5,\); got \(2,\)"),
        ({"chrono": 1000}, INPUTS, None, "chrono needs a cell with gates"),
    ],
)
def test_bad_input(options, inputs, lengths, message):
    with pytest.raises(ValueError, match=message):
        RNNModel(**options).init(jax.random.key(0), inputs, lengths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chrono": 100}, "--chrono needs a --cell with gates"),
        ({"cell": "mingru", "activation": "relu"}, "mingru has no activation"),
        ({"cell": "mingru", "recurrent_gain": 0.5}, "use .* --recurrent-gain 1"),
        ({"cell": "lru", "chrono": 100}, "--chrono needs a --cell with gates"),
        ({"cell": "lru", "activation": "relu"}, "lru has no activation"),
        ({"block": True, "skip": True}, "already include layer norm and skip connections"),
        ({"cell": "mgu", "recurrent_dropout": 0.5}, "--recurrent-dropout needs --cell lstm"),
        ({"recurrence": "flax", "recurrent_dropout": 0.5}, "--recurrent-dropout needs"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        RNNConfig(**options)


def test_config_builds_its_model():
    options = {
        **{"hidden": 7, "cell": "gru", "layers": 2, "bidirectional": True, "pooling": "none"},
        **{"initializers": "identity", "recurrent_gain": 0.5, "recurrence": "flax"},
    }
    assert RNNConfig(**options).build(3) == RNNModel(outputs=3, **options)
    assert RNNConfig().build(10) == RNNModel()
    assert RNNConfig(dropout=0.5).build(3).draws


@pytest.mark.parametrize(
    ("how", "reduce"), [("mean", np.mean), ("max", np.max), ("last", lambda s, axis: s[-1])]
)
def test_pooling_over_valid_steps(how, reduce):
    params, apply = build(pooling=how)
    states = states_by_hand(params["layer0"], INPUTS)
    pooled = [
        reduce(states[row, :length], axis=0) if length else np.zeros(4)
        for row, length in enumerate(LENGTHS)
    ]
    close(apply(INPUTS, LENGTHS), head_by_hand(params, np.stack(pooled)))
    close(apply(INPUTS), apply(INPUTS, np.full(5, 7, np.int32)))


def test_gradients_of_the_maximum_in_a_compiled_program():
    """That of the last bias added to the states, which every maximum contains once."""
    inputs = np.random.default_rng(0).normal(size=(8, 10, 4)).astype(np.float32)
    model = RNNModel(outputs=3, hidden=6, pooling="max", layer_norm=True)
    params = model.init(jax.random.key(0), inputs)["params"]
    gradient = jax.jit(jax.grad(lambda params: model.apply({"params": params}, inputs)[:, 0].sum()))
    expected = len(inputs) * params["head"]["kernel"][:, 0]
    close(gradient(params)["norm0"]["bias"], expected)


@pytest.mark.parametrize("how", ["last", "mean", "max"])
def test_pooling_by_lengths_of_a_type_smaller_than_the_number_of_time_steps(how):
    _, apply = build(pooling=how)
    inputs, lengths = np.resize(INPUTS, (5, 300, 3)), np.int32([7, 0, 50, 200, 255])
    chex.assert_trees_all_equal(apply(inputs, lengths.astype(np.uint8)), apply(inputs, lengths))


def test_tokens_are_one_hot_vectors_or_embedded():
    _, apply = build(tokens=True)
    chex.assert_trees_all_equal(apply(TOKENS), apply(np.eye(6, dtype=np.float32)[TOKENS]))
    params, apply = build(tokens=True, embedding=3, vocabulary=9)
    chex.assert_shape(params["embedding"]["embedding"], (9, 3))
    vectors = np.asarray(params["embedding"]["embedding"])[TOKENS]
    chex.assert_trees_all_equal(apply(TOKENS), apply(vectors))


@pytest.mark.parametrize("embedding", [None, 3])
def test_unknown_tokens_are_not_taken_for_others(embedding):
    _, apply = build(tokens=True, embedding=embedding)
    for unknown in (6, -1):
        assert np.isnan(apply(np.where(TOKENS[0, 0] == TOKENS, unknown, TOKENS))[0]).all()


def test_skip_connections_and_layer_norm():
    params, apply = build(layers=2, skip=True, layer_norm=True, pooling="none")
    below, states = None, INPUTS
    for layer in range(2):
        below, states = states, states_by_hand(params[f"layer{layer}"], states)
        norm = jax.tree.map(np.asarray, params[f"norm{layer}"])
        centered = states - states.mean(-1, keepdims=True)
        deviation = np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-6)
        states = centered / deviation * norm["scale"] + norm["bias"]
        states = states + below if layer else states
    close(apply(INPUTS), head_by_hand(params, states))


@pytest.mark.parametrize("cell", ["mgu", "mingru"])
def test_invalid_recurrent_dropout(cell):
    with pytest.raises(ValueError, match="recurrent dropout needs cell simple or gru"):
        build(cell=cell, recurrent_dropout=0.5)[1](INPUTS, keys=KEYS)


@pytest.mark.parametrize("name", ["dropout", "input_dropout", "recurrent_dropout"])
def test_dropout_drops_in_training_only_and_by_each_examples_key(name):
    apply, plain = build(**{name: 0.5})[1], build()[1]
    close(apply(INPUTS, LENGTHS), plain(INPUTS, LENGTHS))
    dropped = apply(INPUTS, LENGTHS, keys=KEYS)
    assert (np.abs(dropped - plain(INPUTS, LENGTHS))[0] > 1e-6).any()
    order = np.array([4, 2, 0, 1, 3])
    close(apply(INPUTS[order], LENGTHS[order], keys=KEYS[order]), dropped[order])


def test_dropout_keeps_the_mean():
    mask = np.asarray(drop(jnp.ones((4000, 5)), 0.3, jax.random.split(KEYS[0], 4000), 0))
    assert set(np.unique(mask).tolist()) == {0.0, float(np.float32(1) / np.float32(0.7))}
    np.testing.assert_allclose(mask.mean(0), 1, atol=0.06)  # five deviations


@pytest.mark.parametrize("cell", ["simple", "lstm", "mingru", "lru"])
def test_carry_continues_a_sequence(cell):
    _, apply = build(cell=cell, pooling="none")
    whole, last = apply(INPUTS, return_carry=True)
    first, carry = apply(INPUTS[:, :3], return_carry=True)
    rest, again = apply(INPUTS[:, 3:], carry=carry, return_carry=True)
    close((jnp.concatenate([first, rest], 1), again), (whole, last))
    chex.assert_trees_all_equal(apply(INPUTS, LENGTHS * 0, carry=last, return_carry=True)[1], last)


def test_no_carry_of_two_directions():
    with pytest.raises(ValueError, match="a bidirectional network has no state to carry over"):
        build(bidirectional=True)[1](INPUTS, return_carry=True)


@pytest.mark.parametrize(
    ("cell", "recurrence"), [*((cell, "fast") for cell in CELLS), ("simple", "flax")]
)
def test_bfloat16_computes_the_same_to_its_precision(cell, recurrence):
    options = {"cell": cell, "recurrence": recurrence, "layer_norm": cell != "lru"}
    (params, exact), (lower, rounded) = build(**options), build(**options, dtype="bfloat16")
    chex.assert_trees_all_equal(params, lower, strict=True)  # parameters are float32
    outputs, expected = rounded(INPUTS, LENGTHS), exact(INPUTS, LENGTHS)
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, expected, atol=0.06)
    assert np.abs(outputs - expected).max() > 1e-4  # it is used
