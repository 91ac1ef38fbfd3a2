"""Initial weights, gate biases and minGRU."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrnn import RNN, RNNModel
from jaxrnn.nn import MinGRUCell
from jaxrnn.nn.cells import CELLS, is_recurrent_kernel, with_chrono_biases

RNG = np.random.default_rng(0)


def init(features=50, hidden=300, **options):
    model = RNNModel(hidden=hidden, **options)
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, features)))["params"]


def assert_uniform(kernel, inputs_and_outputs):
    limit = np.sqrt(6 / inputs_and_outputs)
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.03)


@pytest.mark.parametrize("initializers", ["keras", "tf1"])
def test_initial_weights(initializers):
    params = init(initializers=initializers)
    kernel, recurrent = (params["layer0"][module]["kernel"] for module in ("i", "h"))
    if initializers == "tf1":  # both are parts of the joint kernel, (50 + 300, 300)
        assert_uniform(kernel, 50 + 300 + 300)
        assert_uniform(recurrent, 50 + 300 + 300)
    else:
        assert_uniform(kernel, 50 + 300)
        np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(300), atol=1e-5)
    assert_uniform(params["head"]["kernel"], 300 + 10)
    assert not any(module["bias"].any() for module in (params["layer0"]["i"], params["head"]))


def test_identity_and_gain():
    def kernels(**options):
        params = init(4, 6, **options)
        return params["layer0"]["h"]["kernel"], params["layer0"]["i"]["kernel"]

    np.testing.assert_array_equal(kernels(initializers="identity")[0], np.eye(6))
    halved, _ = kernels(initializers="identity", recurrent_gain=0.5)
    np.testing.assert_array_equal(halved, np.eye(6) / 2)
    recurrent, of_inputs = kernels(recurrent_gain=2.0)
    np.testing.assert_allclose(recurrent @ recurrent.T, 4 * np.eye(6), atol=1e-5)
    np.testing.assert_array_equal(of_inputs, kernels()[1])


def test_permutation_of_units():
    kernel = np.asarray(init(3, 50, initializers="permutation")["layer0"]["h"]["kernel"])
    assert ((kernel == 0) | (kernel == 1)).all()
    assert (kernel.sum(0) == 1).all()
    assert (kernel.sum(1) == 1).all()
    assert np.trace(kernel) < 10


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
    changed = with_chrono_biases(CELLS[cell](400), params, jax.random.key(1), 1000)
    for name, sign in ((keeps, 1), (writes, -1)):
        if name:
            steps = np.exp(sign * np.asarray(changed[name]["bias"]))
            assert 1 <= steps.min() < 20
            assert 980 < steps.max() <= 999.1
            np.testing.assert_allclose(steps.mean(), 500, atol=75)  # uniform
    others = [gate for gate in gates if gate not in (keeps, writes)]
    assert all((changed[gate]["bias"] == 0).all() for gate in others)


def test_chrono_biases_of_a_network():
    chrono = init(3, 4, cell="gru", chrono=1000, bidirectional=True)
    plain = init(3, 4, cell="gru", bidirectional=True)
    for layer in ("layer0", "layer0_backward"):
        assert (np.asarray(chrono[layer]["iz"].pop("bias")) > 0).all()
        del plain[layer]["iz"]["bias"]
    chex.assert_trees_all_equal(chrono, plain)


@pytest.mark.parametrize("options", [{}, {"reverse": True, "keep_order": True}])
def test_min_gru_is_its_cell_step_by_step(options):
    inputs, carry = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 7, 3), (5, 4)))
    call = {"seq_lengths": np.array([7, 1, 3, 1, 6]), "initial_carry": carry, "return_carry": True}
    fast, slow = (RNN(MinGRUCell(4), fast=fast, **options) for fast in (True, False))
    variables = fast.init(jax.random.key(0), inputs)
    results = [jax.jit(partial(rnn.apply, **call))(variables, inputs) for rnn in (fast, slow)]
    chex.assert_trees_all_close(*results, atol=1e-6)


def test_recurrent_kernels_are_recognized_by_name():
    names = ["layer0/h", "cell/hi", "dense_h", "h0/i", "hidden", "net/head", "layer0/i"]
    leaves = {f"{name}/{leaf}": np.ones((2, 2)) for name in names for leaf in ("kernel", "scale")}
    params = unflatten_dict(leaves, sep="/")
    known = flatten_dict(jax.tree_util.tree_map_with_path(is_recurrent_kernel, params), sep="/")
    kernels = {name for name, is_kernel in known.items() if is_kernel}
    assert kernels == {"layer0/h/kernel", "cell/hi/kernel", "dense_h/kernel"}
