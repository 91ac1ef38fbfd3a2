"""Arguments as people have them: scalars and keys of any kind, and clear errors for the rest."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Split, TrainerConfig

INPUTS = np.random.default_rng(0).random((6, 4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 0, 1, 2], np.int32)
SPLIT, EMPTY = Split(INPUTS, LABELS), Split(INPUTS[:0], LABELS[:0])
STATE = jaxrnn.create_train_state(0, jaxrnn.RNNModel(hidden=4, outputs=3), optax.sgd(0.1), INPUTS)


@pytest.mark.parametrize("train", [(INPUTS, LABELS), {"inputs": INPUTS}, INPUTS, [1], None])
def test_fit_says_what_it_takes(train):
    trainer = TrainerConfig(epochs=1, batch_size=2)
    for arguments in ({"train": train}, {"train": SPLIT, "evals": {"test": train}}):
        with pytest.raises(ValueError, match=r"expected a Split or a stream; got .*: Split"):
            jaxrnn.fit(STATE, trainer=trainer, key=0, **arguments)


@pytest.mark.program
def test_scalars_and_keys_of_any_kind():
    expected, _ = jaxrnn.fit(STATE, SPLIT, TrainerConfig(epochs=1, batch_size=4), key=3)
    for key, one, batch_size in (
        (jax.random.key(3), np.int64(1), jnp.int32(4)),
        (np.uint32(3), jnp.int32(1), np.int16(4)),
        (jax.random.PRNGKey(3), 1, 4),
    ):
        trainer = TrainerConfig(epochs=one, batch_size=batch_size)
        state, _ = jaxrnn.fit(STATE, SPLIT, trainer, key=key)
        chex.assert_trees_all_equal(state.params, expected.params)
        metrics = jaxrnn.evaluate(STATE, SPLIT, batch_size=batch_size)
        chex.assert_trees_all_equal(metrics, jaxrnn.evaluate(STATE, SPLIT, batch_size=4))
    for rate in (np.float32(0.1), jnp.float32(0.1)):
        smoothed = jaxrnn.Classification(label_smoothing=rate)
        assert smoothed == jaxrnn.Classification(label_smoothing=float(rate))
        optimizer = jaxrnn.Adam(learning_rate=rate).build()
        assert optimizer is jaxrnn.Adam(learning_rate=float(rate)).build()


def test_an_empty_split():
    assert jaxrnn.predict(STATE, EMPTY).shape == (0, 3)
    with pytest.raises(ValueError, match="there are no examples to evaluate"):
        jaxrnn.evaluate(STATE, EMPTY)
    for train, evals in ((EMPTY, {}), (SPLIT, {"test": EMPTY})):
        with pytest.raises(ValueError, match=r"the 0 examples|there are no examples to evaluate"):
            jaxrnn.fit(STATE, train, TrainerConfig(epochs=1, batch_size=2), evals=evals, key=0)


def test_predict_needs_no_labels():
    chex.assert_trees_all_equal(jaxrnn.predict(STATE, Split(INPUTS)), jaxrnn.predict(STATE, SPLIT))
