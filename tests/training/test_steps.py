"""Steps: dropout and its keys, gradients in parts, truncated backpropagation."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxrnn
from jaxrnn import Classification, LanguageModeling, Regression, RNNModel, Split
from jaxrnn.training import StepOptions
from jaxrnn.training.sharding import batch_mesh, replicate
from tests.conftest import assert_identical

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
FLOATS = RNG.normal(size=(20, 9, 3)).astype(np.float32)
LENGTHS = RNG.integers(0, 10, 20).astype(np.int32)
TOKENS = RNG.integers(0, 5, (20, 9), np.uint8)
TEXT = Split(TOKENS, np.roll(TOKENS, -1, axis=1), LENGTHS)
OPTIMIZER = optax.sgd(0.5)


def state_of(split, task=None, **options):
    model = RNNModel(**{"hidden": 4, "outputs": 5, **options})
    return jaxrnn.create_train_state(0, model, OPTIMIZER, split.inputs, task or Classification())


@pytest.fixture(scope="module")
def reader():
    """A language model with dropout everywhere."""
    rates = {"dropout": 0.3, "input_dropout": 0.1, "recurrent_dropout": 0.2}
    return state_of(TEXT, LanguageModeling(), pooling="none", embedding=3, **rates)


def close(a, b, atol=1e-6):
    for left, right in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_allclose(left, right, atol=atol)


def test_dropout_follows_the_key_and_the_step(reader):
    batch = {"inputs": TOKENS[:4], "labels": TEXT.labels[:4]}
    first, metrics = jaxrnn.train_step(reader, batch, KEY)
    assert_identical(jaxrnn.train_step(reader, batch, KEY)[0].params, first.params)
    other = jaxrnn.train_step(reader, batch, jax.random.key(4))[1]
    later = jaxrnn.train_step(reader.replace(step=reader.step + 1), batch, KEY)[1]
    losses = {float(one.sums["loss"]) for one in (metrics, other, later)}
    losses.add(float(jaxrnn.training.measure(reader, batch).sums["loss"]))
    assert len(losses) == 4
    with pytest.raises(ValueError, match="draws random numbers, as for dropout: give a key"):
        jaxrnn.train_step(reader, batch)


@pytest.mark.program
def test_an_epoch_with_dropout_is_its_steps_on_any_number_of_devices(reader):
    epoch, metrics = jaxrnn.train_epoch(reader, TEXT, KEY, batch_size=8)
    state, total = reader, jaxrnn.Metrics.zero()
    for batch in jaxrnn.batches(TEXT, KEY, batch_size=8):
        state, one = jaxrnn.train_step(state, batch, KEY)
        total += one
    close(epoch.params, state.params)
    close(metrics, total, atol=1e-4)
    mesh = batch_mesh(8, 4)
    shared, split = replicate((reader, TEXT), mesh)
    close(jaxrnn.train_epoch(shared, split, KEY, batch_size=8, mesh=mesh)[0].params, epoch.params)
    streamed, _ = jaxrnn.fit(reader, jaxrnn.stream(TEXT, batch_size=8, key=KEY), epochs=1)
    first = jax.random.fold_in(KEY, 1)
    close(streamed.params, jaxrnn.train_epoch(reader, TEXT, first, batch_size=8)[0].params)


@pytest.mark.program
def test_networks_that_train_at_once_drop_different_units(reader):
    keys = jax.random.split(KEY)
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), reader)
    states, _ = jaxrnn.fit(both, TEXT, epochs=1, key=keys, batch_size=20)
    for member, key in enumerate(keys):
        alone, _ = jaxrnn.fit(reader, TEXT, epochs=1, key=key, batch_size=20, devices=1)
        close(jax.tree.map(lambda leaf, at=member: leaf[at], states.params), alone.params)


class Flagged(nn.Module):
    """A network of a user's own, with Flax's dropout."""

    @nn.compact
    def __call__(self, inputs, lengths=None, *, train: bool = False):
        return nn.Dense(5)(nn.Dropout(0.5, deterministic=not train)(inputs.mean(1)))


def test_dropout_of_flax():
    split = Split(FLOATS, TOKENS[:, 0])
    state = jaxrnn.create_train_state(0, Flagged(), OPTIMIZER, FLOATS)
    batch = {"inputs": FLOATS, "labels": split.labels}
    losses = [
        float(jaxrnn.training.measure(state, batch, **options).sums["loss"])
        for options in ({}, {"train": True, "key": KEY}, {"train": True, "key": jax.random.key(9)})
    ]
    assert len(set(losses)) == 3
    assert float(jaxrnn.evaluate(state, split).sums["loss"]) == pytest.approx(losses[0])
    with pytest.raises(ValueError, match="give a key"):
        jaxrnn.train_step(state, batch)


SPLITS = {
    "numbers": (Split(FLOATS, targets=FLOATS.sum(1)), Regression(), {"outputs": 3}),
    "text": (TEXT, LanguageModeling(), {"pooling": "none", "dropout": 0.5}),
}


@pytest.mark.program
@pytest.mark.parametrize("name", SPLITS)
def test_gradients_in_parts_are_those_of_the_whole(name):
    split, task, options = SPLITS[name]
    state = state_of(split, task, **options)
    whole, metrics = jaxrnn.train_epoch(state, split, KEY, batch_size=8)
    for parts, mesh in ((3, None), (100, batch_mesh(8, 2))):
        again = jaxrnn.train_epoch(
            state, split, KEY, batch_size=8, options=StepOptions(accumulate=parts), mesh=mesh
        )
        close(again[0].params, whole.params, atol=1e-5)
        close(again[1], metrics, atol=1e-3)


@pytest.mark.program
def test_truncated_backpropagation_carries_the_state_and_no_gradient():
    state = state_of(TEXT, LanguageModeling(), pooling="none", layers=2)
    trained, metrics = jaxrnn.train_epoch(
        state, TEXT, KEY, batch_size=20, options=StepOptions(truncate=4)
    )

    def loss(params, carry, inputs, labels, counted):
        logits, carry = state.apply_fn({"params": params}, inputs, carry=carry, return_carry=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.astype(np.int32))
        return (losses * counted).sum() / counted.sum(), carry

    params, carry = state.params, None  # the order doesn't matter: all rows are in one batch
    valid = (np.arange(9)[None] < LENGTHS[:, None]).astype(np.float32)
    for start in (0, 4, 8):
        part = np.s_[:, start : start + 4]
        arguments = carry, TOKENS[part], TEXT.labels[part], valid[part]
        grads, carry = jax.grad(loss, has_aux=True)(params, *arguments)
        params = jax.tree.map(lambda old, grad: old - 0.5 * grad, params, grads)
    close(trained.params, params, atol=1e-5)
    assert (int(trained.step), float(metrics.weight)) == (3, valid.sum())


@pytest.mark.program
def test_strict_types():
    options = {"layer_norm": True, "dropout": 0.1, "embedding": 3, "cell": "mingru"}
    state = state_of(TEXT, LanguageModeling(), pooling="none", **options)
    with jax.numpy_dtype_promotion("strict"):
        parts = StepOptions(accumulate=2, truncate=5)
        _, metrics = jaxrnn.train_epoch(state, TEXT, KEY, batch_size=20, options=parts)
    assert np.isfinite(metrics.sums["loss"])


def test_sequences_that_fit_into_a_chunk_are_not_cut():
    state = state_of(TEXT, LanguageModeling(), pooling="none")
    epochs = [
        jaxrnn.train_epoch(state, TEXT, KEY, batch_size=20, options=StepOptions(truncate=size))
        for size in (None, 9, 100)
    ]
    assert_identical(epochs[0], epochs[1])
    assert_identical(epochs[0], epochs[2])


def test_truncation_needs_something_to_learn_at_each_step():
    split = Split(FLOATS, TOKENS[:, 0])
    with pytest.raises(ValueError, match="needs a label or target for each time step"):
        jaxrnn.train_epoch(
            state_of(split), split, KEY, batch_size=20, options=StepOptions(truncate=4)
        )


def test_truncation_needs_a_carry():
    split = Split(FLOATS, TEXT.labels)
    state = jaxrnn.create_train_state(0, Flagged(), OPTIMIZER, FLOATS)
    with pytest.raises(ValueError, match="need a model with a carry"):
        jaxrnn.train_epoch(state, split, KEY, batch_size=20, options=StepOptions(truncate=4))


@pytest.mark.parametrize("options", [{"accumulate": 0}, {"truncate": -1}])
def test_bad_step_options(options):
    with pytest.raises(ValueError, match="must be at least 1; got"):
        StepOptions(**options)


@pytest.mark.program
def test_generation_draws_what_the_network_expects():
    """A text in which each token follows from the one before is continued without an error."""
    text = np.resize(np.arange(5, dtype=np.uint8), (20, 9))
    split = Split(text, (text + 1) % 5)
    state = state_of(split, LanguageModeling(), pooling="none", hidden=16)
    state = state.replace(tx=optax.adam(0.05), opt_state=optax.adam(0.05).init(state.params))
    state, _ = jaxrnn.fit(state, split, epochs=40, key=KEY, batch_size=20)
    drawn = jaxrnn.generate(state, np.array([2, 3]), KEY, count=12, temperature=0.2)
    np.testing.assert_array_equal(drawn, (np.arange(12) + 4) % 5)
    with pytest.raises(ValueError, match="an output per time step"):
        jaxrnn.generate(state_of(split), np.array([2]), KEY, count=3)
