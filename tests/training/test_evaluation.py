"""evaluate against numpy, at batch sizes that divide nothing."""

import jax
import numpy as np
import pytest

import jaxrnn
from tests.training.test_epochs import cross_entropy


@pytest.fixture(scope="module")
def expected(state, digits):
    inputs = digits.inputs.astype(np.float32) / 255
    logits = np.asarray(state.apply_fn({"params": state.params}, inputs))
    return cross_entropy(logits, digits.labels).sum(), (logits.argmax(1) == digits.labels).sum()


@pytest.mark.program
@pytest.mark.parametrize("batch_size", [1, 7, 64, 499, 500, 501, 10_000])
def test_exact_sums_at_any_batch_size(state, digits, expected, batch_size):
    metrics = jaxrnn.evaluate(state, digits, batch_size=batch_size)
    np.testing.assert_allclose(metrics.sums["loss"], expected[0], rtol=1e-5)
    assert metrics.sums["accuracy"] == expected[1]
    assert metrics.weight == 500
    assert metrics.means()["accuracy"] == pytest.approx(expected[1] / 500)
    assert metrics.means()["loss"] == pytest.approx(expected[0] / 500, rel=1e-5)


def test_the_whole_test_set_counts_ten_thousand(state):
    metrics = jaxrnn.evaluate(state, jaxrnn.load(split="test"), batch_size=333)
    assert metrics.weight == 10_000


def test_lengths_reach_the_model(state, digits):
    lengths = np.full(500, 14, np.int32)
    short = jaxrnn.evaluate(state, digits.replace(lengths=lengths))
    cut = jaxrnn.evaluate(state, digits.replace(inputs=digits.inputs[:, :14]))
    np.testing.assert_allclose(short.sums["loss"], cut.sums["loss"], rtol=1e-5)


def test_bad_input(state, digits):
    with pytest.raises(ValueError, match="cannot evaluate 500 examples in batches of 0"):
        jaxrnn.evaluate(state, digits, batch_size=0)
    with pytest.raises(ValueError, match="cannot evaluate 0 examples"):
        jaxrnn.evaluate(state, jax.tree.map(lambda leaf: leaf[:0], digits))


@pytest.mark.parametrize("batch_size", [7, 500, 10_000])
def test_predict_gives_the_logits_in_order(state, digits, batch_size):
    logits = jaxrnn.predict(state, digits, batch_size=batch_size)
    inputs = digits.inputs.astype(np.float32) / 255
    expected = state.apply_fn({"params": state.params}, inputs)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
