"""Steps: gradients, dropout and its keys, gradients in parts, truncated backpropagation."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxrnn
from jaxrnn import LanguageModeling, RNNModel, Split, create_train_state, train_epoch, train_step
from jaxrnn.training import StepOptions, measure
from jaxrnn.training.sharding import batch_mesh, replicate

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
FLOATS = RNG.normal(size=(20, 9, 3)).astype(np.float32)
LENGTHS = RNG.integers(0, 10, 20).astype(np.int32)
TOKENS = RNG.integers(0, 5, (20, 9), np.uint8)
TEXT = Split(TOKENS, np.roll(TOKENS, -1, axis=1), LENGTHS)
OPTIMIZER = optax.sgd(0.5)


def state_of(split, task=None, **options):
    model = RNNModel(**{"hidden": 4, "outputs": 5, **options})
    return create_train_state(0, model, OPTIMIZER, split.inputs, task or jaxrnn.Classification())


@pytest.fixture
def strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="module")
def reader():
    """A language model with dropout everywhere."""
    rates = {"dropout": 0.3, "input_dropout": 0.1, "recurrent_dropout": 0.2}
    return state_of(TEXT, LanguageModeling(), pooling="none", embedding=3, **rates)


def test_step_descends_the_mean_loss(digits):
    """With plain gradient descent, a step is the learning rate times the gradient of the mean."""
    inputs, labels = digits.inputs[:50], digits.labels[:50]
    state = create_train_state(KEY, RNNModel(hidden=8), optax.sgd(0.1), inputs)
    before = jax.tree.map(np.asarray, (state.params, state.step))
    new, metrics = train_step(state, {"inputs": inputs, "labels": labels})

    def mean_loss(params):
        logits = state.apply_fn({"params": params}, inputs.astype(np.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    expected = jax.tree.map(lambda param, grad: param - 0.1 * grad, state.params, gradient)
    chex.assert_trees_all_close(new.params, expected, atol=1e-6)
    assert metrics.means()["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert (int(metrics.weight), int(new.step)) == (50, 1)
    chex.assert_trees_all_equal((state.params, state.step), before)
    changed = jax.tree.map(lambda old, updated: (old != updated).any(), state.params, new.params)
    assert all(jax.tree.leaves(changed))


def test_dropout_follows_the_key_and_the_step(reader):
    batch = {"inputs": TOKENS[:4], "labels": TEXT.labels[:4]}
    first, metrics = train_step(reader, batch, KEY)
    chex.assert_trees_all_equal(train_step(reader, batch, KEY)[0].params, first.params)
    other = train_step(reader, batch, jax.random.key(4))[1]
    later = train_step(reader.replace(step=reader.step + 1), batch, KEY)[1]
    evaluated = measure(reader, batch)
    assert len({float(each.sums["loss"]) for each in (metrics, other, later, evaluated)}) == 4
    with pytest.raises(ValueError, match="draws random numbers, as for dropout: give a key"):
        train_step(reader, batch)


@pytest.mark.program
def test_epoch_with_dropout_equals_its_steps_on_any_number_of_devices(reader):
    key = jax.random.fold_in(KEY, 1)
    epoch, metrics = train_epoch(reader, TEXT, key, batch_size=8)
    state, total = reader, jaxrnn.Metrics.zero()
    for batch in jaxrnn.batches(TEXT, key, batch_size=8):
        state, of_batch = train_step(state, batch, key)
        total += of_batch
    chex.assert_trees_all_close(epoch.params, state.params, atol=1e-6)
    chex.assert_trees_all_close(metrics, total, atol=1e-4)
    mesh = batch_mesh(8, 4)
    shared, _ = train_epoch(*replicate((reader, TEXT), mesh), key, batch_size=8, mesh=mesh)
    chex.assert_trees_all_close(shared.params, epoch.params, atol=1e-6)


SPLITS = {
    "numbers": (Split(FLOATS, targets=FLOATS.sum(1)), jaxrnn.Regression(), {"outputs": 3}),
    "text": (TEXT, LanguageModeling(), {"pooling": "none", "dropout": 0.5, "layer_norm": True}),
}


@pytest.mark.program
@pytest.mark.usefixtures("strict_types")
@pytest.mark.parametrize("name", SPLITS)
def test_gradients_in_parts_are_those_of_the_whole(name):
    split, task, options = SPLITS[name]
    state = state_of(split, task, **options)
    whole, metrics = train_epoch(state, split, KEY, batch_size=8, drop_remainder=True)
    for parts, mesh in ((3, None), (100, batch_mesh(8, 2))):
        options = {"options": StepOptions(accumulate=parts), "drop_remainder": True}
        again = train_epoch(state, split, KEY, batch_size=8, mesh=mesh, **options)
        chex.assert_trees_all_close(again[0].params, whole.params, atol=1e-5)
        chex.assert_trees_all_close(again[1], metrics, atol=1e-3)


class OwnCarry(nn.Module):
    """A network of a user's own with a carry: the sum of what it has read."""

    @nn.compact
    def __call__(self, inputs, lengths=None, *, carry=None, return_carry=False):
        start = carry if jax.tree.leaves(carry) else jnp.zeros_like(inputs[:, 0])
        sums = start[:, None] + jnp.cumsum(inputs, 1)
        outputs = nn.Dense(5)(sums)
        return (outputs, sums[:, -1]) if return_carry else outputs


@pytest.mark.program
@pytest.mark.usefixtures("strict_types")
@pytest.mark.parametrize("model", [RNNModel(4, 5, pooling="none", layers=2), OwnCarry()])
def test_truncated_backpropagation_carries_the_state_and_no_gradient(model):
    lengths = LENGTHS if isinstance(model, RNNModel) else np.full(20, 9, np.int32)
    split = Split(FLOATS, TEXT.labels, lengths.astype(np.uint8))  # less than 0 wraps around
    state = create_train_state(0, model, OPTIMIZER, FLOATS, LanguageModeling())
    options = StepOptions(truncate=4)
    trained, metrics = train_epoch(state, split, KEY, batch_size=20, options=options)

    def loss(params, carry, inputs, labels, counted):
        logits, carry = state.apply_fn({"params": params}, inputs, carry=carry, return_carry=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.astype(np.int32))
        return (losses * counted).sum() / counted.sum(), carry

    params, carry = state.params, None  # the order doesn't matter: all rows are in one batch
    valid = (np.arange(9)[None] < lengths[:, None]).astype(np.float32)
    for start in (0, 4, 8):
        part = np.s_[:, start : start + 4]
        arguments = carry, FLOATS[part], TEXT.labels[part], valid[part]
        grads, carry = jax.jit(jax.grad(loss, has_aux=True))(params, *arguments)
        params = jax.tree.map(lambda old, grad: old - 0.5 * grad, params, grads)
    chex.assert_trees_all_close(trained.params, params, atol=1e-5)
    assert (int(trained.step), float(metrics.weight)) == (3, valid.sum())


@pytest.mark.program
def test_sequences_that_fit_into_a_chunk_are_not_cut():
    state = state_of(TEXT, LanguageModeling(), pooling="none")
    options = [StepOptions(truncate=size) for size in (None, 9, 100)]
    epochs = [train_epoch(state, TEXT, KEY, batch_size=20, options=each) for each in options]
    chex.assert_trees_all_equal(*epochs)


@pytest.mark.program
@pytest.mark.parametrize(
    ("whole", "cell", "size"),  # pieces of four leave a shorter one
    [(True, "simple", 4), (True, "lstm", 3), (False, "simple", 3), (False, "lstm", 4)],
)
def test_rematerialization_gives_the_exact_gradient(whole, cell, size):
    """With a label for each step and lengths, or one label at the end."""
    lengths, labels = (None, TOKENS[:, 0]) if whole else (LENGTHS, TEXT.labels)
    split = Split(FLOATS, labels, lengths)
    model = RNNModel(4, 5, cell=cell, layers=2, pooling="last" if whole else "none")
    state = create_train_state(
        0, model, OPTIMIZER, FLOATS, jaxrnn.Classification() if whole else LanguageModeling()
    )
    train = partial(train_epoch, state, split, KEY, batch_size=20)
    at_once, in_pieces = train(), train(options=StepOptions(remat=size))
    chex.assert_trees_all_close(in_pieces[0].params, at_once[0].params, atol=1e-6)
    chex.assert_trees_all_close(in_pieces[1], at_once[1], rtol=1e-5)


class Squares(jaxrnn.Classification):
    """The training loss has two elements for each example."""

    def measure(self, outputs, batch, *, train=False):
        measured = super().measure(outputs, batch, train=train)
        return {"loss": outputs[:, :2] ** 2 if train else measured["loss"]}


def test_rematerialization_counts_the_elements_of_the_training_loss():
    state = state_of(Split(FLOATS), Squares(), pooling="last")
    train = partial(train_epoch, state, Split(FLOATS, TOKENS[:, 0]), KEY, batch_size=20)
    chex.assert_trees_all_close(train(options=StepOptions(remat=4)), train(), atol=1e-6)


def test_rematerialization_saves_memory():
    """A step on 400 time steps takes memory for pieces of 20 and their carries."""
    model = RNNModel(16, 5, pooling="none")
    inputs = np.zeros((8, 400, 3), np.float32)
    split = Split(inputs, np.zeros((8, 400), np.uint8))
    state = create_train_state(0, model, OPTIMIZER, inputs, LanguageModeling())
    memory = [
        train_epoch.lower(state, split, KEY, batch_size=8, options=StepOptions(remat=size))
        .compile().memory_analysis().temp_size_in_bytes
        for size in (None, 20)
    ]  # fmt: skip
    assert memory[1] < memory[0] / 3


@pytest.mark.parametrize(("lengths", "pooling"), [(LENGTHS, "last"), (None, "mean")])
def test_rematerialization_with_one_label_needs_the_last_output(lengths, pooling):
    split = Split(FLOATS, TOKENS[:, 0], lengths)
    state = create_train_state(0, RNNModel(4, 5, pooling=pooling), OPTIMIZER, FLOATS)
    with pytest.raises(ValueError, match="--remat needs --pooling last and sequences"):
        train_epoch(state, split, KEY, batch_size=20, options=StepOptions(remat=4))


@pytest.mark.parametrize(
    ("labels", "model", "message"),
    [
        (TOKENS[:, 0], RNNModel(4, 5), "needs a label or target for each time step"),
        (TEXT.labels, nn.Dense(5), "need a unidirectional model with a carry"),
    ],
)
def test_truncation_needs_labels_of_each_step_and_a_carry(labels, model, message):
    state = create_train_state(0, model, OPTIMIZER, FLOATS)
    options = StepOptions(truncate=4)
    with pytest.raises(ValueError, match=message):
        train_epoch(state, Split(FLOATS, labels), KEY, batch_size=20, options=options)


def test_bad_step_options():
    for options in ({"accumulate": 0}, {"truncate": -1}, {"remat": 0}):
        with pytest.raises(ValueError, match="must be at least 1; got"):
            StepOptions(**options)
