"""Blocks and epochs: pure, reproducible, compiled once, and the same however they are divided."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Metrics, RNNModel, create_train_state, train_epoch, train_step
from jaxrnn.data.batches import epoch_indices, prepare
from jaxrnn.data.splits import take
from jaxrnn.training import train_block
from jaxrnn.training.epochs import augmented
from jaxrnn.training.sharding import batch_mesh, put_examples, replicate
from tests.shared import compilations

KEY = jax.random.key(7)
WARP = jaxrnn.WarpConfig(shift=2.0).build()
warp = jax.jit(augmented, static_argnums=0)


@pytest.mark.program
@pytest.mark.parametrize(
    ("batch_size", "drop_remainder", "augment", "devices"),
    [(64, False, WARP, 4), (64, True, None, 1)],  # 500 = 7 × 64 + 52
)
def test_epoch_equals_its_steps(state, digits, batch_size, drop_remainder, augment, devices):
    options = {"batch_size": batch_size, "drop_remainder": drop_remainder}
    mesh = batch_mesh(batch_size, devices)
    assert mesh.size == devices
    shared = replicate((state, digits), mesh)
    by_epoch, metrics = train_epoch(*shared, KEY, augment=augment, mesh=mesh, **options)

    by_step, total = state, Metrics.zero()
    numbered = digits.replace(labels=np.arange(500, dtype=np.int32))
    for batch in jaxrnn.batches(numbered, KEY, **options):
        places = batch["labels"]
        batch = take(digits, places)
        if augment:
            batch["inputs"] = warp(augment, prepare(batch)["inputs"], places, KEY)
        by_step, of_batch = train_step(by_step, batch)
        total += of_batch

    assert metrics.weight == total.weight == (448 if drop_remainder else 500)
    assert metrics.sums["accuracy"] == total.sums["accuracy"]
    np.testing.assert_allclose(metrics.sums["loss"], total.sums["loss"], rtol=1e-5)
    assert by_epoch.step == by_step.step == -(-int(total.weight) // batch_size)
    chex.assert_trees_all_close(by_epoch.params, by_step.params, atol=1e-4)


def test_epoch_of_a_pair_of_arrays(state, digits):
    """Which is what the other functions of this package read, too."""
    inputs, labels = digits.inputs[:128], digits.labels[:128]
    for examples in ((inputs, labels), {"inputs": inputs, "labels": labels}):
        trained, metrics = train_epoch(state, examples, KEY, batch_size=64)
        assert (trained.step, metrics.weight) == (2, 128)


@pytest.mark.program
def test_blocks_are_bit_identical_to_the_epoch(state, digits):
    """Of a whole split, and of examples as a stream reads them, divided among the devices."""
    mesh = batch_mesh(64, devices=2)
    state, split = replicate((state, digits), mesh)
    whole, total = train_epoch(state, split, KEY, batch_size=64, mesh=mesh, augment=WARP)
    order, rest = jax.device_get(epoch_indices(KEY, 500, batch_size=64))
    for streamed in (False, True):
        trained, parts = state, []
        for rows, shared_by in ((order[:3], mesh), (order[3:], mesh), (rest[None], None)):
            examples, divided = split, streamed and len(rows) > 1
            if streamed:  # by device, then by step; with the places that the rows were
                places = rows.reshape(len(rows), 2 if divided else 1, -1).swapaxes(0, 1)
                read = {**take(digits, places.ravel()), "places": places.ravel()}
                examples = put_examples(read, mesh, sharded=divided)
                rows = np.arange(places[0].size).reshape(len(rows), -1)
            trained, metrics = train_block(trained, examples, rows, KEY, shared_by, augment=WARP)
            parts.append(metrics)
        chex.assert_trees_all_equal(whole, trained)
        steps = jax.tree.map(lambda *sums: np.concatenate(sums), *parts)
        assert steps.weight.tolist() == [64] * 7 + [52]
        chex.assert_trees_all_close(jax.tree.map(np.sum, steps), total)


@pytest.mark.program
def test_seed_determines_the_bits_and_order_matters(digits):
    def run(init, order):
        state = create_train_state(init, RNNModel(hidden=8), jaxrnn.Adam().build(), digits.inputs)
        return train_epoch(state, digits, jax.random.key(order), batch_size=50)[0].params

    chex.assert_trees_all_equal(run(0, 0), run(0, 0))
    for other in (run(1, 0), run(0, 1)):
        differ = jax.tree.map(lambda a, b: (a != b).any(), run(0, 0), other)
        assert all(jax.tree.leaves(differ))


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


def test_bad_batch_size(state, digits):
    for batch_size in (0, 501):
        with pytest.raises(ValueError, match="batch size must be between 1 and the 500 examples"):
            train_epoch(state, digits, KEY, batch_size=batch_size)
