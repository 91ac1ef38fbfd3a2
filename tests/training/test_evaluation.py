"""evaluate, predict and generate, at batch sizes that divide nothing."""

import chex
import jax
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

import jaxrnn
from jaxrnn import RNNModel, Split, create_train_state, stream
from jaxrnn.training.sharding import batch_mesh, replicate

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def logits(state, digits):
    inputs = digits.inputs.astype(np.float32) / 255
    return np.asarray(state.apply_fn({"params": state.params}, inputs))


@pytest.mark.program
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (64, 1), (7, 4), (500, 4)])
def test_sums_are_exact_at_any_batch_size(state, digits, logits, batch_size, devices, streamed):
    mesh = batch_mesh(devices)
    state, split = replicate((state, digits), mesh)
    data = stream(digits, batch_size=batch_size) if streamed else split
    metrics = jaxrnn.evaluate(state, data, batch_size=batch_size, mesh=mesh)
    loss = -log_softmax(logits.astype(float), -1)[np.arange(500), digits.labels].sum()
    np.testing.assert_allclose(metrics.sums["loss"], loss, rtol=1e-5)
    assert metrics.sums["accuracy"] == (logits.argmax(-1) == digits.labels).sum()
    assert metrics.weight == 500


@pytest.mark.parametrize("devices", [1, 4])  # that fit left the state on
def test_evaluating_a_stream_gives_the_bits_of_the_split(state, digits, devices):
    in_memory = jaxrnn.evaluate(state, digits, batch_size=100)
    streamed = jaxrnn.evaluate(
        replicate(state, batch_mesh(devices)), stream(digits, batch_size=100)
    )
    chex.assert_trees_all_equal(streamed, in_memory)


def test_bad_input(state, digits):
    empty = jax.tree.map(lambda leaf: leaf[:0], digits)
    chex.assert_shape(jaxrnn.predict(state, empty), (0, 10))
    partial = ({"drop_remainder": True}, {"steps_per_epoch": 2})
    streams = [stream(digits, batch_size=50, **options) for options in partial]
    for data, batch_size, message in (
        (digits, 0, "batch size must be at least 1; got 0"),
        (empty, None, "there are no examples to evaluate"),
        *((data, None, "one pass over all examples") for data in streams),
        (digits.inputs, 50, "expected a Split, a pair .*; got (an array|ndarray)"),
        ({"inputs": digits.inputs, "mask": digits.labels}, 50, "mask is not supported; for padded"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxrnn.evaluate(state, data, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [7, 500, None])
def test_predict_gives_the_logits_in_order(state, digits, logits, batch_size):
    found = jaxrnn.predict(state, digits.replace(labels=None), batch_size=batch_size)
    np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.program
@pytest.mark.parametrize("kind", ["dict", "image", "pair", "lists"])
def test_other_containers_are_all_of_their_examples(state, digits, kind):
    inputs, labels = digits.inputs[:5], digits.labels[:5]
    examples = {
        "dict": {"inputs": inputs, "labels": labels},
        "image": {"image": inputs, "label": labels},
        "pair": (inputs, labels),
        "lists": {"inputs": (inputs / np.float32(255)).tolist(), "labels": labels.tolist()},
    }[kind]
    split = Split(inputs, labels)
    expected = jaxrnn.evaluate(state, split).means()
    chex.assert_trees_all_close(jaxrnn.evaluate(state, examples).means(), expected, rtol=1e-6)
    _, metrics = jaxrnn.train_step(state, examples)
    chex.assert_trees_all_close(metrics.means(), expected, rtol=1e-6)
    found, logits = (jaxrnn.predict(state, each) for each in (examples, split))
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)


def test_generation_continues_a_predictable_text():
    """A text in which each token follows from the one before is continued without an error."""
    text = np.resize(np.arange(5, dtype=np.uint8), (20, 9))
    split, task = Split(text, (text + 1) % 5), jaxrnn.LanguageModeling()
    state, of_whole_sequences = (
        create_train_state(0, RNNModel(16, 5, pooling=pooling), optax.adam(0.05), text, task)
        for pooling in ("none", "last")
    )
    trainer = jaxrnn.TrainerConfig(epochs=40, batch_size=20)
    state, _ = jaxrnn.fit(state, split, trainer, key=KEY)
    for temperature in (0.2, 0.0):
        drawn = jaxrnn.generate(state, np.array([2, 3]), KEY, count=12, temperature=temperature)
        np.testing.assert_array_equal(drawn, (np.arange(12) + 4) % 5)
    with pytest.raises(ValueError, match="an output per time step"):
        jaxrnn.generate(of_whole_sequences, np.array([2]), KEY, count=3)
