"""Blocks and epochs: pure, reproducible, compiled once, and the same however they are divided."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Metrics, RNNModel, create_train_state, train_epoch, train_step
from jaxrnn.data.batches import epoch_indices
from jaxrnn.data.splits import prepare, take
from jaxrnn.training import train_block
from jaxrnn.training.epochs import augmented
from jaxrnn.training.sharding import batch_mesh, put_examples, replicate
from tests.conftest import compilations, leaves

KEY = jax.random.key(7)
WARP = jaxrnn.WarpConfig(shift=2.0).build()


@pytest.mark.program
@pytest.mark.parametrize(
    ("batch_size", "drop_remainder", "augment"),
    [(100, False, None), (64, False, WARP), (64, True, None)],  # 500 = 5 × 100 = 7 × 64 + 52
)
def test_epoch_equals_its_steps(state, digits, batch_size, drop_remainder, augment):
    options = {"batch_size": batch_size, "drop_remainder": drop_remainder}
    by_epoch, metrics = train_epoch(state, digits, KEY, augment=augment, **options)

    by_step, total = state, Metrics.zero()
    numbered = digits.replace(labels=np.arange(500, dtype=np.int32))
    for batch in jaxrnn.batches(numbered, KEY, **options):
        places = batch["labels"]
        batch = take(digits, places)
        if augment:
            batch["inputs"] = augmented(augment, prepare(batch)["inputs"], places, KEY)
        by_step, of_batch = train_step(by_step, batch)
        total += of_batch

    assert metrics.weight == total.weight == (448 if drop_remainder else 500)
    assert metrics.sums["accuracy"] == total.sums["accuracy"]
    np.testing.assert_allclose(metrics.sums["loss"], total.sums["loss"], rtol=1e-5)
    assert by_epoch.step == by_step.step == -(-int(total.weight) // batch_size)
    chex.assert_trees_all_close(by_epoch.params, by_step.params, atol=1e-4)


@pytest.mark.program
@pytest.mark.parametrize("devices", [1, 2])
def test_blocks_are_bit_identical_to_the_epoch(state, digits, devices):
    mesh = batch_mesh(64, devices)
    state, digits = replicate((state, digits), mesh)
    whole, total = train_epoch(state, digits, KEY, batch_size=64, mesh=mesh, augment=WARP)
    rows, rest = epoch_indices(KEY, 500, batch_size=64)
    parts = []
    for some, shared_by in ((rows[:3], mesh), (rows[3:], mesh), (rest[None], None)):
        state, metrics = train_block(state, digits, some, KEY, shared_by, augment=WARP)
        parts.append(metrics)
    chex.assert_trees_all_equal(whole, state)
    steps = jax.tree.map(lambda *sums: np.concatenate(sums), *parts)
    assert steps.weight.tolist() == [64] * 7 + [52]
    chex.assert_trees_all_close(jax.tree.map(np.sum, steps), total)


@pytest.mark.program
@pytest.mark.parametrize("devices", [1, 2])
def test_blocks_of_examples_in_the_order_of_steps(state, digits, devices):
    """As streams are read: with places in the source, and divided among the devices."""
    mesh = batch_mesh(64, devices)
    order = np.asarray(epoch_indices(KEY, 500, batch_size=64)[0])
    expected = train_block(*replicate((state, digits), mesh), order, KEY, augment=WARP, mesh=mesh)

    places = order.reshape(7, devices, -1).swapaxes(0, 1).ravel()  # by device, then by step
    sharded = devices > 1
    read = put_examples({**take(digits, places), "places": places}, mesh, sharded=sharded)
    rows = np.arange(7 * 64 // devices).reshape(7, -1)
    options = {"augment": WARP, "mesh": mesh, "sharded": sharded}
    found = train_block(replicate(state, mesh), read, rows, KEY, **options)
    chex.assert_trees_all_equal(found, expected)


def test_seed_determines_the_bits_and_order_matters(digits):
    def run(init, order):
        state = create_train_state(init, RNNModel(hidden=8), jaxrnn.Adam().build(), digits.inputs)
        return train_epoch(state, digits, jax.random.key(order), batch_size=50)[0].params

    chex.assert_trees_all_equal(run(0, 0), run(0, 0))
    for other in (run(1, 0), run(0, 1)):
        assert all((a != b).any() for a, b in zip(leaves(run(0, 0)), leaves(other), strict=True))


@pytest.mark.program
def test_second_call_compiles_nothing(digits):
    batch, optimizer, digits = take(digits, np.arange(50)), optax.adam(1e-3), jax.device_put(digits)

    def one_of_each(seed):
        # An equal model, task and a new state, as a notebook cell that is run again makes them.
        model, task = RNNModel(hidden=9), jaxrnn.Classification(label_smoothing=0.25)
        state = create_train_state(seed, model, optimizer, digits.inputs, task)
        for _ in range(2):
            state, _ = train_step(state, batch)
            state, _ = train_epoch(state, digits, KEY, batch_size=64)
        jaxrnn.evaluate(state, digits)

    with compilations() as first:
        one_of_each(0)
    assert [first.count(f"jit({name})") for name in ("train_step", "train_epoch")] == [1, 1]
    with compilations() as second:
        one_of_each(1)
    assert second == []


@pytest.mark.program
def test_vmap_over_keys_states_and_learning_rates(digits):
    """Three networks in one program are those that are trained alone."""
    model, optimizer = RNNModel(hidden=8), jaxrnn.Adam().build()

    def run(key, rate):
        init_key, data_key = jax.random.split(key)
        state = create_train_state(init_key, model, optimizer, digits.inputs)
        state = state.replace(opt_state=optax.tree.set(state.opt_state, learning_rate=rate))
        state, metrics = train_epoch(state, digits, data_key, batch_size=100)
        return state.params, metrics

    keys, rates = jax.random.split(KEY, 3), jnp.array([1e-3, 3e-3, 1e-2])
    together = jax.jit(jax.vmap(run))(keys, rates)
    alone = [jax.jit(run)(key, rate) for key, rate in zip(keys, rates, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    chex.assert_trees_all_close(together, stacked, rtol=1e-4, atol=1e-5)
    assert len({float(metrics.sums["loss"]) for _, metrics in alone}) == 3


def test_augmentation_uses_no_key_twice():
    """Nor one that the order is made from: permutation sorts by the bits of split keys."""
    key = jax.random.key(3)

    def augment(key, image):
        return image + jax.random.key_data(key).astype(jnp.float32)[0]

    of_examples = augmented(augment, jnp.zeros((100, 1, 1)), jnp.arange(100), key)
    assert len(np.unique(of_examples)) == 100
    rest, first = jax.random.split(key)
    of_order = jnp.stack([key, rest, first, *jax.random.split(rest)])
    drawn = jax.vmap(lambda key: jax.random.split(key, 100))(of_order)  # what their bits come from
    words = jax.random.key_data(jnp.concatenate([of_order, drawn.ravel()]))[:, 0]
    assert not np.isin(of_examples, words.astype(jnp.float32)).any()


@pytest.mark.parametrize("batch_size", [0, 501])
def test_bad_batch_size(state, digits, batch_size):
    with pytest.raises(ValueError, match="batch size must be between 1 and the 500 examples"):
        train_epoch(state, digits, KEY, batch_size=batch_size)
