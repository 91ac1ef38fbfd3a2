"""Adam and Muon against optax's parts and the rules written out; averaged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Adam, Muon
from jaxrnn.training import averaged

PARAMS = {
    "layer0": {"i": {"kernel": jnp.ones((3, 4))}, "h": {"kernel": jnp.eye(4)}},
    "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)},
}


def gradients(seed):
    leaves, structure = jax.tree.flatten(PARAMS)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def sizes(optimizer, steps, params=PARAMS):
    """The largest change of the head's kernel in each step."""
    state, changes = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(gradients(step), state, params)
        changes.append(float(jnp.abs(updates["head"]["kernel"]).max()))
    return np.array(changes)


def test_equal_arguments_give_the_same_object():
    assert Adam().build() is Adam(learning_rate=1e-3, schedule="constant").build(20)
    assert Adam(learning_rate=0.1).build() is not Adam().build()
    scheduled = Adam(schedule="linear")
    assert scheduled.build(20) is scheduled.build(20)
    assert scheduled.build(20) is not scheduled.build(21)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules(schedule):
    """The rate divides out: the same steps at a constant rate of 1 changed by so much."""
    scheduled = Adam(learning_rate=0.5, schedule=schedule, warmup=0.2).build(20)
    rates = sizes(scheduled, 20) / sizes(Adam(learning_rate=1.0).build(), 20)
    rising, falling = np.arange(4) / 4, np.arange(16) / 16
    fall = {"constant": 1 + 0 * falling, "linear": 1 - falling,
            "cosine": (1 + np.cos(np.pi * falling)) / 2}[schedule]  # fmt: skip
    np.testing.assert_allclose(rates, 0.5 * np.concatenate([rising, fall]), atol=1e-5)


def test_a_schedule_needs_steps():
    for optimizer in (Adam(schedule="linear"), Muon(warmup=0.1)):
        assert optimizer.scheduled
        with pytest.raises(ValueError, match="needs the number of steps"):
            optimizer.build()
    assert not Adam().scheduled


def test_adam_follows_tensorflow():
    """The rule, written out."""
    optimizer = Adam(learning_rate=0.5, epsilon=0.25).build()
    theta, m, v = 0.0, 0.0, 0.0
    params = jnp.zeros(())
    state = optimizer.init(params)
    for step, gradient in enumerate((0.3, -0.01, 2.0), start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.5 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        theta -= rate * m / (np.sqrt(v) + 0.25)
        updates, state = optimizer.update(jnp.float32(gradient), state, params)
        params = optax.apply_updates(params, updates)
        assert float(params) == pytest.approx(theta, rel=1e-4)


def test_clipping_comes_first():
    optimizer, plain = Adam(clip_norm=1.0).build(), Adam().build()
    grads = gradients(0)
    norm = optax.global_norm(grads)
    assert norm > 1
    clipped, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    by_hand, _ = plain.update(jax.tree.map(lambda g: g / norm, grads), plain.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), clipped, by_hand)


@pytest.mark.parametrize(
    "optimizer", [Adam(learning_rate=0.5), Muon(learning_rate=0.5, muon_learning_rate=0.5)]
)
def test_weight_decay_is_decoupled(optimizer):
    def update(decay):
        made = dataclasses.replace(optimizer, weight_decay=decay).build()
        return made.update(gradients(0), made.init(PARAMS), PARAMS)[0]

    jax.tree.map(
        lambda with_decay, without, param: np.testing.assert_allclose(
            with_decay, without - 0.5 * 0.1 * param, atol=1e-5
        ),
        update(0.1), update(0.0), PARAMS,
    )  # fmt: skip


def test_muon_is_for_recurrent_kernels_alone():
    optimizer = Muon(learning_rate=0.25, muon_learning_rate=1.0).build()
    updates, _ = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    singular = np.linalg.svd(updates["layer0"]["h"]["kernel"], compute_uv=False)
    assert singular.min() > 0.3
    assert singular.max() < 1.5
    nadam = optax.nadamw(0.25, weight_decay=0.0)
    others, _ = nadam.update(gradients(0), nadam.init(PARAMS), PARAMS)
    for layer, name in (("layer0", "i"), ("head", None)):
        ours, theirs = (tree[layer][name] if name else tree[layer] for tree in (updates, others))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), ours, theirs)


@pytest.mark.program
@pytest.mark.parametrize("cell", ["simple", "gru", "lstm", "mgu"])
def test_muon_knows_every_cell(cell):
    model = jaxrnn.RNNModel(hidden=4, cell=cell, layers=2)
    optimizer = Muon(learning_rate=0.0, muon_learning_rate=1.0).build()
    state = jaxrnn.create_train_state(jax.random.key(0), model, optimizer, np.zeros((1, 5, 3)))
    batch = {"inputs": np.ones((2, 5, 3), np.float32), "labels": np.array([0, 1])}
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (path[-2].key, a.ndim, bool((a != b).any())),
        state.params, jaxrnn.train_step(state, batch)[0].params,
    )  # fmt: skip
    for name, rank, has in jax.tree.leaves(moved, is_leaf=lambda leaf: isinstance(leaf, tuple)):
        assert has == (rank == 2 and name != "head" and name.startswith("h")), name


def test_average():
    """At first the mean of what there was, forgetting the start; then a decay of 0.9."""
    optimizer = Adam(learning_rate=0.1, average=0.9).build()
    model = jaxrnn.RNNModel(hidden=4)
    state = jaxrnn.create_train_state(jax.random.key(0), model, optimizer, np.zeros((1, 5, 3)))
    assert averaged(state).params is not None
    batch = {"inputs": np.ones((2, 5, 3), np.float32), "labels": np.array([0, 1])}
    expected = np.asarray(state.params["head"]["bias"])
    for step in range(1, 120):
        state, _ = jaxrnn.train_step(state, batch)
        share = max(0.1, 10 / (step + 10))
        expected = (1 - share) * expected + share * np.asarray(state.params["head"]["bias"])
    np.testing.assert_allclose(averaged(state).params["head"]["bias"], expected, rtol=1e-4)
    assert (averaged(state).params["head"]["bias"] != state.params["head"]["bias"]).all()


def test_without_an_average_the_state_itself(state):
    assert averaged(state) is state
