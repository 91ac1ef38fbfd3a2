"""Adam and Muon against optax's parts and the rules written out; averaged."""

import dataclasses

import chex
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
BATCH = {"inputs": np.ones((2, 5, 3), np.float32), "labels": np.array([0, 1])}


def gradients(seed):
    return optax.tree.random_like(jax.random.key(seed), PARAMS)


def first_update(optimizer, scale=1.0):
    scaled = jax.tree.map(lambda gradient: gradient * scale, gradients(0))
    return jax.jit(optimizer.update)(scaled, optimizer.init(PARAMS), PARAMS)[0]


def sizes(optimizer, steps):
    """The largest change of the head's kernel in each step."""
    state, changes = optimizer.init(PARAMS), []
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(gradients(step), state, PARAMS)
        changes.append(float(jnp.abs(updates["head"]["kernel"]).max()))
    return np.array(changes)


def new_state(optimizer, **options):
    model = jaxrnn.RNNModel(hidden=4, **options)
    return jaxrnn.create_train_state(jax.random.key(0), model, optimizer, BATCH["inputs"])


def test_equal_configurations_build_the_same_object():
    assert Adam().build() is Adam(learning_rate=1e-3, schedule="constant").build(20)
    assert Adam(learning_rate=0.1).build() is not Adam().build()
    scheduled = [Adam(schedule="linear").build(steps) for steps in (20, 20, 21)]
    assert scheduled[0] is scheduled[1] is not scheduled[2]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules(schedule):
    """The rate divides out: the same steps at a constant rate of 1 changed by so much."""
    scheduled = Adam(learning_rate=0.5, schedule=schedule, warmup=0.2).build(20)
    rates = sizes(scheduled, 20) / sizes(Adam(learning_rate=1.0).build(), 20)
    rising, falling = np.arange(4) / 4, np.arange(16) / 16
    falls = {"constant": 1 + 0 * falling, "linear": 1 - falling}
    fall = falls.get(schedule, (1 + np.cos(np.pi * falling)) / 2)
    np.testing.assert_allclose(rates, 0.5 * np.concatenate([rising, fall]), atol=1e-5)


@pytest.mark.parametrize("optimizer", [Adam(schedule="linear"), Muon(warmup=0.1)])
def test_schedule_needs_steps(optimizer):
    with pytest.raises(ValueError, match="needs the number of steps"):
        optimizer.build()


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
    norm = optax.global_norm(gradients(0))
    assert norm > 1
    by_hand = first_update(Adam().build(), 1 / norm)
    chex.assert_trees_all_close(first_update(Adam(clip_norm=1.0).build()), by_hand, rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer", [Adam(learning_rate=0.5), Muon(learning_rate=0.5, muon_learning_rate=0.5)]
)
def test_weight_decay_is_decoupled(optimizer):
    without = first_update(optimizer.build())
    expected = jax.tree.map(lambda update, param: update - 0.5 * 0.1 * param, without, PARAMS)
    decayed = first_update(dataclasses.replace(optimizer, weight_decay=0.1).build())
    chex.assert_trees_all_close(decayed, expected, atol=1e-5)


@pytest.mark.parametrize("optimizer", [Adam(weight_decay=0.1), Muon(weight_decay=0.1)])
def test_recurrence_of_an_lru_trains_slower_and_without_weight_decay(optimizer):
    params = {"lru_layer": {"lru_nu": jnp.ones(3), "D": jnp.ones(3)}}  # each one's own name decides

    def update(optimizer):
        optimizer = optimizer.build()
        return optimizer.update(params, optimizer.init(params), params)[0]["lru_layer"]

    plain = update(dataclasses.replace(optimizer, weight_decay=0.0, lru_factor=1.0))
    slower = update(dataclasses.replace(optimizer, lru_factor=0.25))
    chex.assert_trees_all_close(slower["lru_nu"], 0.25 * plain["lru_nu"])
    chex.assert_trees_all_close(slower["D"], plain["D"] - 1e-4, rtol=1e-5)


def test_muon_is_for_recurrent_kernels_alone():
    updates = first_update(Muon(learning_rate=0.25, muon_learning_rate=1.0).build())
    singular = np.linalg.svd(updates["layer0"]["h"]["kernel"], compute_uv=False)
    assert 0.3 < singular.min() <= singular.max() < 1.5
    others = first_update(optax.nadamw(0.25, weight_decay=0.0))
    del updates["layer0"]["h"], others["layer0"]["h"]
    chex.assert_trees_all_close(updates, others, rtol=1e-3)


@pytest.mark.program
@pytest.mark.parametrize("cell", ["simple", "gru", "lstm", "mgu"])
def test_muon_knows_every_cell(cell):
    optimizer = Muon(learning_rate=0.0, muon_learning_rate=1.0).build()
    params = new_state(optimizer, cell=cell).params
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    moved = jax.tree.map(lambda update: bool(update.any()), updates)
    recurrent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim == 2 and path[0].key != "head" and path[-2].key[0] == "h",
        params,
    )
    assert moved == recurrent


def test_average_forgets_the_start():
    """At first the mean of what there was; then a decay of 0.9."""
    state = new_state(Adam(learning_rate=0.1, average=0.9).build())
    expected = np.asarray(state.params["head"]["bias"])
    for step in range(1, 120):
        state, _ = jaxrnn.train_step(state, BATCH)
        share = max(0.1, 10 / (step + 10))
        expected = (1 - share) * expected + share * np.asarray(state.params["head"]["bias"])
    np.testing.assert_allclose(averaged(state).params["head"]["bias"], expected, rtol=1e-4)
    assert (averaged(state).params["head"]["bias"] != state.params["head"]["bias"]).all()
    plain = new_state(Adam().build())
    assert averaged(plain) is plain


def test_optimizers_that_take_the_value():
    seen = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(()), lambda grads, state, params, *, value, **_: (grads, value)
    )
    state = jaxrnn.create_train_state(0, jaxrnn.RNNModel(2, 4), seen, BATCH["inputs"])
    stepped, metrics = jaxrnn.train_step(state, BATCH)
    assert float(stepped.opt_state) == pytest.approx(float(metrics.means()["loss"]))
    for optimizer in (optax.contrib.reduce_on_plateau(), optax.polyak_sgd()):
        other = jaxrnn.create_train_state(0, jaxrnn.RNNModel(2, 4), optimizer, BATCH["inputs"])
        chex.assert_tree_all_finite(jaxrnn.train_step(other, BATCH)[0].params)


def test_schedule_free_is_evaluated_by_its_average():
    optimizer = optax.chain(optax.clip(1.0), optax.contrib.schedule_free_sgd(0.5, b1=0.8))
    state = jaxrnn.create_train_state(0, jaxrnn.RNNModel(2, 4), optimizer, BATCH["inputs"])
    for _ in range(3):
        state, _ = jaxrnn.train_step(state, BATCH)
    expected = optax.contrib.schedule_free_eval_params(state.opt_state[1], state.params)
    chex.assert_trees_all_equal(averaged(state).params, expected)
    assert not np.allclose(expected["head"]["kernel"], state.params["head"]["kernel"])
