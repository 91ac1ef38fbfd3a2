"""Steps and epochs: pure, reproducible, compiled once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Metrics, RNNModel, create_train_state, train_epoch, train_step
from jaxrnn.data.splits import take
from jaxrnn.training.epochs import augmented
from tests.conftest import assert_identical, compilations, leaves

KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def batch(digits):
    return take(digits, np.arange(50))


def cross_entropy(logits, labels):
    """By definition, in float64."""
    logits = np.asarray(logits, float)
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return log_sum - logits[np.arange(len(labels)), labels]


def test_metrics_are_those_of_the_parameters_before_the_step(state, batch):
    _, metrics = train_step(state, batch)
    logits = state.apply_fn({"params": state.params}, batch["inputs"].astype(np.float32) / 255)
    losses = cross_entropy(logits, batch["labels"])
    np.testing.assert_allclose(metrics.sums["loss"], losses.sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics.means()["loss"], losses.mean(), rtol=1e-5)
    assert metrics.sums["accuracy"] == (np.argmax(logits, 1) == batch["labels"]).sum()
    assert metrics.weight == 50


@pytest.mark.program
def test_the_step_descends_the_mean_loss(digits, batch):
    """With plain gradient descent, a step is the learning rate times the gradient of the mean."""
    state = create_train_state(KEY, RNNModel(hidden=8), optax.sgd(0.1), digits.inputs)

    def mean_loss(params):
        logits = state.apply_fn({"params": params}, jnp.asarray(batch["inputs"], float) / 255)
        return -jax.nn.log_softmax(logits)[jnp.arange(50), batch["labels"]].mean()

    new, _ = train_step(state, batch)
    expected = jax.tree.map(
        lambda p, g: p - 0.1 * g, state.params, jax.grad(mean_loss)(state.params)
    )
    for a, b in zip(leaves(new.params), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_every_leaf_changes_and_the_old_state_does_not(state, batch):
    before = leaves(state)
    new, _ = train_step(state, batch)
    for old, changed in zip(before, leaves(new), strict=True):
        assert (old != changed).any()
    for old, kept in zip(before, leaves(state), strict=True):
        np.testing.assert_array_equal(old, kept)


def test_pixels_are_scaled_inside_the_step(state, batch):
    floats = {**batch, "inputs": batch["inputs"].astype(np.float32) / 255}
    for a, b in zip(
        leaves(train_step(state, batch)), leaves(train_step(state, floats)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_lengths_reach_the_model(state, batch):
    full = {**batch, "lengths": np.full(50, 28, np.int32)}
    half = {**batch, "lengths": np.full(50, 14, np.int32)}
    cut = {**batch, "inputs": batch["inputs"][:, :14]}
    batches = {"all": batch, "full": full, "half": half, "cut": cut}
    loss = {
        name: float(train_step(state, batch)[1].means()["loss"]) for name, batch in batches.items()
    }
    assert loss["full"] == pytest.approx(loss["all"], rel=1e-5)
    assert loss["half"] == pytest.approx(loss["cut"], rel=1e-5)
    assert loss["half"] != pytest.approx(loss["all"], rel=1e-2)


@pytest.mark.program
@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize("batch_size", [64, 100])  # 500 = 7 × 64 + 52 = 5 × 100
def test_an_epoch_is_its_steps(state, digits, batch_size, drop_remainder):
    options = {"batch_size": batch_size, "drop_remainder": drop_remainder}
    by_epoch, metrics = train_epoch(state, digits, KEY, **options)

    by_step, total = state, Metrics.zero()
    for batch in jaxrnn.batches(digits, KEY, **options):
        by_step, of_batch = train_step(by_step, batch)
        total += of_batch

    assert metrics.weight == total.weight == (448 if drop_remainder and batch_size == 64 else 500)
    assert metrics.sums["accuracy"] == total.sums["accuracy"]
    np.testing.assert_allclose(metrics.sums["loss"], total.sums["loss"], rtol=1e-5)
    assert by_epoch.step == by_step.step == -(-int(total.weight) // batch_size)
    for a, b in zip(leaves(by_epoch.params), leaves(by_step.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.program
@pytest.mark.parametrize("batch_size", [100, 64])
def test_parts_of_an_epoch_are_the_epoch(state, digits, batch_size):
    """The same bits, metrics included, and one program for all parts."""
    options = {"batch_size": batch_size, "report": "steps"}
    whole, expected = train_epoch(state, digits, KEY, **options)
    steps = -(-500 // batch_size)
    edges = [np.int32(edge) for edge in (0, 1, steps - 1, steps)]

    def parts(state, total=Metrics.zero()):  # noqa: B008
        for part in itertools.pairwise(edges):
            state, metrics = train_epoch(state, digits, KEY, part=part, **options)
            total += metrics
        return state, total

    in_parts, total = parts(state)
    assert_identical((whole.params, whole.opt_state), (in_parts.params, in_parts.opt_state))
    assert_identical(expected, total)
    with compilations() as names:
        parts(state)
    assert names == []


def test_same_seed_same_bits_other_seed_others(digits):
    def run(seed):
        init_key, data_key = jax.random.split(jax.random.key(seed))
        model = RNNModel(hidden=8)
        state = create_train_state(init_key, model, optax.adam(1e-3), digits.inputs)
        return train_epoch(state, digits, data_key, batch_size=50)[0].params

    assert_identical(run(0), run(0))
    assert all((a != b).any() for a, b in zip(leaves(run(0)), leaves(run(1)), strict=True))


def test_the_order_alone_changes_the_result(state, digits):
    a, b = (train_epoch(state, digits, jax.random.key(seed), batch_size=50)[0] for seed in (0, 1))
    assert (leaves(a.params)[0] != leaves(b.params)[0]).any()


@pytest.mark.program
def test_the_second_call_compiles_nothing(digits, batch):
    device_digits, key = jax.device_put(digits), jax.random.fold_in(KEY, 1)

    def one_of_each(seed):
        # An equal model and a new state, as a notebook cell that is run again makes them.
        state = create_train_state(jax.random.key(seed), RNNModel(hidden=9), optimizer, SHAPE)
        state, _ = train_step(state, batch)
        state, _ = train_step(state, batch)
        state, _ = train_epoch(state, device_digits, key, batch_size=64)
        state, _ = train_epoch(state, device_digits, key, batch_size=64)
        return jaxrnn.evaluate(state, device_digits)

    optimizer = optax.adam(1e-3)
    with compilations() as first:
        one_of_each(0)
    assert [first.count(f"jit({name})") for name in ("train_step", "train_epoch", "evaluate")] == [
        1, 1, 1,
    ]  # fmt: skip
    with compilations() as second:
        one_of_each(1)
    assert second == []


SHAPE = np.zeros((1, 28, 28))


@pytest.mark.parametrize("batch_size", [0, 501])
def test_bad_batch_size(state, digits, batch_size):
    with pytest.raises(ValueError, match="batch size must be between 1 and the 500 examples"):
        train_epoch(state, digits, KEY, batch_size=batch_size)


@pytest.mark.program
def test_a_whole_run_under_jit_and_vmap(digits):
    """What pure functions buy: three seeds trained as one program."""
    model, optimizer = RNNModel(hidden=8), optax.adam(1e-2)

    def run(key):
        init_key, data_key = jax.random.split(key)
        state = create_train_state(init_key, model, optimizer, digits.inputs)
        return train_epoch(state, digits, data_key, batch_size=100)[1].means()["loss"]

    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_allclose(together, [run(key) for key in keys], rtol=1e-4)


@pytest.mark.program
def test_augmentation_gives_every_example_its_own_key(state, digits):
    """By hand: the order of the epoch, and a key for each place in the split."""

    def augment(key, image):
        return image * jax.random.uniform(key)

    key = jax.random.key(3)
    fitted, metrics = jaxrnn.train_epoch(
        state, digits, key, batch_size=100, augment=augment, report="steps"
    )
    numbered = digits.replace(labels=np.arange(500, dtype=np.int32))
    for step, batch in enumerate(jaxrnn.batches(numbered, key, batch_size=100)):
        places = batch["labels"]
        batch = augmented(augment, take(digits, places), places, key)
        state, by_hand = jaxrnn.train_step(state, batch)
        assert metrics.sums["loss"][step] == pytest.approx(float(by_hand.sums["loss"]), rel=1e-5)
        assert metrics.sums["accuracy"][step] == by_hand.sums["accuracy"]
    for a, b in zip(leaves(fitted.params), leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_augmentation_uses_no_key_twice():
    """Nor one that the order is made from: permutation sorts by the bits of split keys."""
    key = jax.random.key(3)

    def augment(key, image):
        return image + jax.random.key_data(key).astype(jnp.float32)[0]

    batch = {"inputs": np.zeros((100, 1, 1), np.float32)}
    of_examples = augmented(augment, batch, np.arange(100), key)["inputs"]
    assert len(set(np.ravel(of_examples).tolist())) == 100
    rest, first = jax.random.split(key)
    of_order = jnp.stack([key, rest, first, *jax.random.split(rest)])
    drawn = jax.vmap(lambda key: jax.random.split(key, 100))(of_order)  # what their bits come from
    keys = jnp.concatenate([of_order, drawn.ravel()])
    words = jax.random.key_data(keys)[:, 0].astype(jnp.float32)
    assert not set(np.ravel(of_examples).tolist()) & set(words.tolist())


def test_per_step_metrics_add_up(state, digits):
    key = jax.random.key(3)
    _, total = jaxrnn.train_epoch(state, digits, key, batch_size=64)
    _, steps = jaxrnn.train_epoch(state, digits, key, batch_size=64, report="steps")
    assert steps.weight.tolist() == [64] * 7 + [52]
    assert steps.sums["accuracy"].sum() == total.sums["accuracy"]
    assert float(steps.sums["loss"].sum()) == pytest.approx(float(total.sums["loss"]), rel=1e-6)


def test_label_smoothing(state, digits):
    batch = {"inputs": digits.inputs[:7], "labels": digits.labels[:7]}
    logits = jaxrnn.predict(state, jaxrnn.Split(**batch))
    targets = 0.8 * np.eye(10)[batch["labels"]] + 0.2 / 10
    expected = -(targets * np.asarray(jax.nn.log_softmax(logits))).sum()
    state = state.replace(task=jaxrnn.Classification(label_smoothing=0.2))
    measured = jaxrnn.training.measure(state, batch, train=True)
    assert float(measured.sums["loss"]) == pytest.approx(expected, rel=1e-5)
