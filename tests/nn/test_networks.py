"""What networks are made of besides cells: tokens, pooling, dropout, norms, skips, gate biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxrnn
from jaxrnn import RNN, RNNConfig, RNNModel
from jaxrnn.nn.cells import CELLS, MinGRUCell, with_chrono_biases
from jaxrnn.nn.scans import linear_scan, linear_scan_in_order, linear_scan_in_parallel

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(5, 7, 3)).astype(np.float32)
TOKENS = RNG.integers(0, 6, (5, 7), np.uint8)
LENGTHS = np.array([7, 1, 3, 0, 6], np.int32)
KEYS = jax.random.split(jax.random.key(1), 5)


def build(inputs=INPUTS, **options):
    """A network of this kind, with parameters, and a function that applies it."""
    model = RNNModel(**{"hidden": 4, "outputs": 6, **options})
    params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
    return params, lambda *args, **more: model.apply({"params": params}, *args, **more)


def test_pooling_over_valid_steps():
    params, every = build(pooling="none")
    kernel, bias = (np.asarray(params["head"][name]) for name in ("kernel", "bias"))

    def states_of(rows):
        return np.linalg.lstsq(kernel.T, (np.asarray(rows) - bias).T, rcond=None)[0].T

    outputs = every(INPUTS, LENGTHS)
    for how, reduce in (("mean", np.mean), ("max", np.max), ("last", lambda s, axis: s[-1])):
        model = RNNModel(hidden=4, outputs=6, pooling=how)
        pooled = model.apply({"params": params}, INPUTS, LENGTHS)
        for row in (0, 1, 2, 4):
            states = states_of(outputs[row, : LENGTHS[row]])
            np.testing.assert_allclose(
                states_of(pooled[row : row + 1])[0], reduce(states, axis=0), atol=1e-4
            )
        np.testing.assert_allclose(pooled[3], params["head"]["bias"], atol=1e-6)  # no step at all
        np.testing.assert_allclose(
            model.apply({"params": params}, INPUTS),
            model.apply({"params": params}, INPUTS, np.full(5, 7, np.int32)),
            atol=1e-6,
        )


def test_tokens_are_one_hot_vectors_or_embedded():
    params, apply = build(TOKENS)
    one_hot = np.eye(6, dtype=np.float32)[TOKENS]
    np.testing.assert_array_equal(apply(TOKENS), apply(one_hot))
    params, apply = build(TOKENS, embedding=3, vocabulary=9)
    assert params["embedding"]["embedding"].shape == (9, 3)
    vectors = np.asarray(params["embedding"]["embedding"])[TOKENS]
    np.testing.assert_array_equal(apply(TOKENS), apply(vectors))


@pytest.mark.parametrize("embedding", [None, 3])
def test_unknown_tokens_are_not_taken_for_others(embedding):
    _, apply = build(TOKENS, embedding=embedding)
    assert np.isnan(apply(np.where(TOKENS[0, 0] == TOKENS, 6, TOKENS))[0]).all()


def test_skip_connections_and_layer_norm():
    params, apply = build(layers=2, skip=True, layer_norm=True, pooling="none")
    states, states_by_hand = INPUTS, []
    for layer in range(2):
        cell = RNN(nn.SimpleCell(4))
        states = np.asarray(cell.apply({"params": {"cell": params[f"layer{layer}"]}}, states))
        norm = jax.tree.map(np.asarray, params[f"norm{layer}"])
        centered = states - states.mean(-1, keepdims=True)
        deviation = np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-6)
        states = centered / deviation * norm["scale"] + norm["bias"]
        if layer:
            states = states + states_by_hand[-1]
        states_by_hand.append(states)
    expected = states @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    np.testing.assert_allclose(apply(INPUTS), expected, atol=1e-5)


@pytest.mark.parametrize("cell", ["simple", "gru"])
def test_recurrent_dropout_is_one_mask_for_all_steps(cell):
    """Dropping units is the same as clearing their rows of the recurrent kernels."""
    rnn = RNN(CELLS[cell](4))
    variables = rnn.init(jax.random.key(0), INPUTS)
    mask = jnp.array([0.0, 2.0, 2.0, 0.0])
    dropped = rnn.apply(variables, INPUTS, dropout=jnp.broadcast_to(mask, (5, 4)))

    def clear(path, leaf):
        recurrent = path[-2].key.startswith("h") and path[-1].key == "kernel"
        return leaf * mask[:, None] if recurrent else leaf

    cleared = jax.tree_util.tree_map_with_path(clear, variables)
    np.testing.assert_allclose(dropped, rnn.apply(cleared, INPUTS), atol=1e-6)


def test_recurrent_dropout_of_an_lstm():
    rnn = RNN(nn.OptimizedLSTMCell(4))
    variables = rnn.init(jax.random.key(0), INPUTS)
    mask = jnp.array([0.0, 2.0, 2.0, 0.0])
    dropped = rnn.apply(variables, INPUTS, dropout=jnp.broadcast_to(mask, (5, 4)))
    kernels = {
        name: {**leaves, "kernel": leaves["kernel"] * mask[:, None]} if name[0] == "h" else leaves
        for name, leaves in variables["params"]["cell"].items()
    }
    cleared = rnn.apply({"params": {"cell": kernels}}, INPUTS)
    np.testing.assert_allclose(dropped, cleared, atol=1e-6)


@pytest.mark.parametrize("cell", ["mgu", "mingru"])
def test_recurrent_dropout_that_is_not_possible(cell):
    with pytest.raises(ValueError, match="recurrent dropout needs cell simple or gru"):
        build(cell=cell, recurrent_dropout=0.5)[1](INPUTS, keys=KEYS)


@pytest.mark.parametrize("name", ["dropout", "input_dropout", "recurrent_dropout"])
def test_dropout_drops_in_training_only_and_by_each_examples_key(name):
    _, apply = build(**{name: 0.5})
    _, plain = build()
    np.testing.assert_array_equal(apply(INPUTS, LENGTHS), plain(INPUTS, LENGTHS))
    dropped = apply(INPUTS, LENGTHS, keys=KEYS)
    assert (np.abs(dropped - plain(INPUTS, LENGTHS))[0] > 1e-6).any()
    order = np.array([4, 2, 0, 1, 3])
    again = apply(INPUTS[order], LENGTHS[order], keys=KEYS[order])
    np.testing.assert_allclose(again, dropped[order], atol=1e-6)


def test_dropout_keeps_the_mean():
    from jaxrnn.nn.dropout import drop

    mask = np.asarray(drop(jnp.ones((4000, 5)), 0.3, jax.random.split(KEYS[0], 4000), 0))
    assert set(np.unique(mask).tolist()) == {0.0, float(np.float32(1) / np.float32(0.7))}
    np.testing.assert_allclose(mask.mean(0), 1, atol=0.06)  # five deviations


@pytest.mark.parametrize(
    ("cell", "gates", "keeps", "writes"),
    [
        ("lstm", ["hi", "hf", "hg", "ho", "ii", "if", "ig", "io"], "hf", "hi"),
        ("gru", ["ir", "iz", "in", "hr", "hz", "hn"], "iz", None),
        ("mgu", ["if", "in", "hf", "hn"], "if", None),
        ("mingru", ["iz", "in"], None, "iz"),
    ],
)
def test_chrono_gates_forget_within_the_longest_dependency(cell, gates, keeps, writes):
    params = {gate: {"bias": jnp.zeros(400), "kernel": jnp.ones((2, 400))} for gate in gates}
    changed = with_chrono_biases(CELLS[cell](400), params, KEYS[0], 1000)
    for name, sign in ((keeps, 1), (writes, -1)):
        if name:
            steps = np.exp(sign * np.asarray(changed[name]["bias"]))
            assert 1 <= steps.min() < 20
            assert 980 < steps.max() <= 999.1
            np.testing.assert_allclose(steps.mean(), 500, atol=75)  # uniform
    others = [gate for gate in gates if gate not in (keeps, writes)]
    assert all((changed[gate]["bias"] == 0).all() for gate in others)


def test_chrono_biases_of_a_network():
    params, _ = build(cell="gru", chrono=1000, bidirectional=True)
    plain, _ = build(cell="gru", bidirectional=True)
    for layer in ("layer0", "layer0_backward"):
        assert (np.asarray(params[layer]["iz"]["bias"]) > 0).all()
        kernels = [one[layer]["iz"]["kernel"] for one in (params, plain)]
        np.testing.assert_array_equal(*kernels)
    with pytest.raises(ValueError, match="chrono needs a cell with gates"):
        build(chrono=1000)


def test_a_permutation_of_units():
    params, _ = build(initializers="permutation", hidden=50)
    kernel = np.asarray(params["layer0"]["h"]["kernel"])
    assert ((kernel == 0) | (kernel == 1)).all()
    assert (kernel.sum(0) == 1).all()
    assert (kernel.sum(1) == 1).all()
    assert np.trace(kernel) < 10


def test_linear_scans_and_their_gradient_agree():
    decay, inputs = RNG.uniform(size=(2, 6, 2, 3)).astype(np.float32)

    def value_and_gradients(scan):
        return jax.value_and_grad(lambda a, b: jnp.sin(scan(a, b)).sum(), (0, 1))(decay, inputs)

    expected = value_and_gradients(linear_scan_in_order)
    for scan in (linear_scan, linear_scan_in_parallel):
        for a, b in zip(*map(jax.tree.leaves, (value_and_gradients(scan), expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"reverse": True, "keep_order": True}])
def test_min_gru_is_its_cell_step_by_step(options):
    fast, slow = (RNN(MinGRUCell(4), fast=fast, **options) for fast in (True, False))
    variables = fast.init(jax.random.key(0), INPUTS)
    carry = RNG.normal(size=(5, 4)).astype(np.float32)
    arguments = {"seq_lengths": LENGTHS.clip(1), "initial_carry": carry, "return_carry": True}
    for a, b in zip(
        jax.tree.leaves(fast.apply(variables, INPUTS, **arguments)),
        jax.tree.leaves(slow.apply(variables, INPUTS, **arguments)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("cell", ["simple", "lstm", "mingru"])
def test_a_carry_continues_a_sequence(cell):
    _, apply = build(cell=cell, pooling="none")
    whole, last = apply(INPUTS, return_carry=True)
    first, carry = apply(INPUTS[:, :3], return_carry=True)
    rest, again = apply(INPUTS[:, 3:], carry=carry, return_carry=True)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, atol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (again, last)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_no_carry_of_two_directions():
    with pytest.raises(ValueError, match="a bidirectional network has no state to carry over"):
        build(bidirectional=True)[1](INPUTS, return_carry=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chrono": 100}, "--chrono needs a --cell with gates"),
        ({"cell": "mingru", "activation": "relu"}, "mingru has no activation"),
        ({"cell": "mingru", "recurrent_gain": 0.5}, "use .* --recurrent-gain 1"),
        ({"cell": "mgu", "recurrent_dropout": 0.5}, "--recurrent-dropout needs --cell lstm"),
        ({"recurrence": "flax", "recurrent_dropout": 0.5}, "--recurrent-dropout needs"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        RNNConfig(**options)


@pytest.mark.parametrize("cell", [*CELLS])
@pytest.mark.parametrize("recurrence", ["fast", "flax"])
def test_bfloat16_computes_the_same_to_its_precision(cell, recurrence):
    options = {"cell": cell, "recurrence": recurrence, "layers": 2, "layer_norm": True}
    params, exact = build(**options)
    lower, rounded = build(**options, dtype="bfloat16")
    jax.tree.map(np.testing.assert_array_equal, lower, params)  # parameters are float32
    for arguments in ((INPUTS,), (INPUTS, LENGTHS)):
        outputs = rounded(*arguments)
        assert outputs.dtype == jnp.float32
        np.testing.assert_allclose(outputs, exact(*arguments), atol=0.06)
        assert np.abs(outputs - exact(*arguments)).max() > 1e-4  # it is used


def test_bfloat16_trains_every_task():
    tasks = jaxrnn.Classification(), jaxrnn.Regression(), jaxrnn.LanguageModeling()
    targets = RNG.normal(size=(5, 6)).astype(np.float32)
    splits = (
        jaxrnn.Split(INPUTS, np.arange(5)),
        jaxrnn.Split(INPUTS, targets=targets),
        jaxrnn.Split(TOKENS[:, :-1], TOKENS[:, 1:]),
    )
    for task, split in zip(tasks, splits, strict=True):
        pooling = "none" if split.inputs.ndim == 2 else "last"
        model = RNNModel(hidden=4, outputs=6, pooling=pooling, dtype="bfloat16")
        optimizer = jaxrnn.Adam(learning_rate=3e-2).build(20)
        key = jax.random.key(0)
        state = jaxrnn.create_train_state(key, model, optimizer, split.inputs, task)
        _, history = jaxrnn.fit(state, split, key=key, batch_size=5, epochs=20)
        assert history["train_loss"][-1] < 0.9 * history["train_loss"][0]
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
