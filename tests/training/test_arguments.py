"""Arguments as people have them: scalars and keys of any kind, and clear errors for the rest."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Split
from tests.conftest import assert_identical

INPUTS = np.random.default_rng(0).random((6, 4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 0, 1, 2], np.int32)
STATE = jaxrnn.create_train_state(0, jaxrnn.RNNModel(hidden=4, outputs=3), optax.sgd(0.1), INPUTS)


@pytest.mark.parametrize("train", [(INPUTS, LABELS), {"inputs": INPUTS}, INPUTS, [1], None])
def test_fit_says_what_it_takes(train):
    for arguments in (
        {"train": train},
        {"train": Split(INPUTS, LABELS), "evals": {"test": train}},
    ):
        with pytest.raises(ValueError, match=r"expected a Split or a stream; got .*: Split"):
            jaxrnn.fit(STATE, **arguments, key=0, epochs=1, batch_size=2)


@pytest.mark.program
def test_scalars_and_keys_of_any_kind():
    split = Split(INPUTS, LABELS)
    expected, _ = jaxrnn.fit(STATE, split, key=jax.random.key(3), epochs=2, batch_size=4)
    for key, epochs, batch_size in (
        (3, np.int64(2), jnp.int32(4)),
        (np.uint32(3), jnp.int32(2), np.int16(4)),
        (jax.random.PRNGKey(3), 2, 4),
    ):
        state, _ = jaxrnn.fit(STATE, split, key=key, epochs=epochs, batch_size=batch_size)
        assert_identical(state.params, expected.params)
    for key in (3, jax.random.PRNGKey(3)):
        assert_identical(
            jaxrnn.train_epoch(STATE, split, key, batch_size=4)[0].params,
            jaxrnn.train_epoch(STATE, split, jax.random.key(3), batch_size=4)[0].params,
        )
    for size in (np.int64(4), jnp.int32(4)):
        assert_identical(
            jaxrnn.evaluate(STATE, split, batch_size=size),
            jaxrnn.evaluate(STATE, split, batch_size=4),
        )
    for rate in (np.float32(0.1), jnp.float32(0.1)):
        task = jaxrnn.Classification(label_smoothing=rate)
        assert task == jaxrnn.Classification(label_smoothing=float(rate))
        assert (
            jaxrnn.Adam(learning_rate=rate).build()
            is jaxrnn.Adam(learning_rate=float(rate)).build()
        )


def test_an_empty_split():
    empty = Split(INPUTS[:0], LABELS[:0])
    assert jaxrnn.predict(STATE, empty).shape == (0, 3)
    with pytest.raises(ValueError, match="cannot evaluate 0 examples"):
        jaxrnn.evaluate(STATE, empty)
    for train, evals in ((empty, {}), (Split(INPUTS, LABELS), {"test": empty})):
        with pytest.raises(ValueError, match=r"the 0 examples|cannot evaluate 0 examples"):
            jaxrnn.fit(STATE, train, evals=evals, key=0, epochs=1, batch_size=2)


@pytest.mark.parametrize("given", [INPUTS, jnp.asarray(INPUTS), (INPUTS, LABELS), [INPUTS]])
def test_functions_of_a_split_say_so(given):
    kind = r"got (an array|tuple|list)"
    for function in (
        jaxrnn.evaluate,
        jaxrnn.predict,
        lambda state, on: jaxrnn.train_step(state, on),
    ):
        with pytest.raises(ValueError, match=f"expected a Split, such as .*; {kind}"):
            function(STATE, given)


def test_predict_needs_no_labels():
    assert_identical(
        jaxrnn.predict(STATE, Split(INPUTS)), jaxrnn.predict(STATE, Split(INPUTS, LABELS))
    )


def test_states_are_copied_but_not_pickled():
    copied = copy.deepcopy(STATE)
    assert_identical(copied.params, STATE.params)
    assert copied.apply_fn is STATE.apply_fn  # which shares what was compiled
    assert copy.copy(STATE).params is STATE.params
    with pytest.raises(TypeError, match=r"save it with jaxrnn.Checkpoints"):
        pickle.dumps(STATE)
