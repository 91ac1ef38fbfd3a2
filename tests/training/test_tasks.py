"""Tasks against numpy; what must not count; and the same numbers in every loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import jaxrnn
from jaxrnn import Classification, LanguageModeling, Regression, RNNModel, Split, TrainerConfig
from tests.shared import compilations

measure = jax.jit(jaxrnn.training.measure, static_argnames="train")
KEY = jax.random.key(3)
SIZE, TIME, WIDTH = 66, 5, 3
OPTIMIZER = jaxrnn.Adam(learning_rate=1e-2).build()
TRAINER = TrainerConfig(epochs=1, batch_size=33)
RNG = np.random.default_rng(0)

# Sequences of different lengths, and anything to predict from them.
INPUTS = RNG.normal(size=(SIZE, TIME, 2)).astype(np.float32)
LENGTHS = RNG.integers(1, TIME + 1, SIZE).astype(np.int32)
PADDING = np.arange(TIME) >= LENGTHS[:, None]
LABEL = {"labels": RNG.integers(0, WIDTH, SIZE).astype(np.int32)}
LABELS = {"labels": RNG.integers(0, WIDTH, (SIZE, TIME)).astype(np.int32)}
TARGET = {"targets": RNG.normal(size=(SIZE, WIDTH)).astype(np.float32)}
TARGETS = {"targets": RNG.normal(size=(SIZE, TIME, WIDTH)).astype(np.float32)}

# name: the task, how the network pools, and what it predicts.
CASES = {
    "classification": (Classification(label_smoothing=0.1), "last", LABEL),
    "classification of steps": (Classification(), "none", LABELS),
    "regression": (Regression(), "last", TARGET),
    "regression of steps": (Regression(), "none", TARGETS),
    "language modeling": (LanguageModeling(), "none", LABELS),
}


def case(name):
    """The split of a case, and the state of a network for it at step 0."""
    task, pooling, predicted = CASES[name]
    return Split(INPUTS, lengths=LENGTHS, **predicted), state_of(task, pooling)


def state_of(task, pooling="last", model=None):
    model = model or RNNModel(hidden=4, outputs=WIDTH, pooling=pooling)
    return jaxrnn.create_train_state(0, model, OPTIMIZER, INPUTS, task)


def reported(state, split, **options):
    metrics = jax.device_get(jaxrnn.evaluate(state, split, **options))
    return state.task.summarize(metrics.means())


@pytest.mark.parametrize("name", CASES)
def test_metrics_are_those_of_numpy(name):
    split, state = case(name)
    outputs = np.asarray(jaxrnn.predict(state, split), float)
    keep = ~PADDING if outputs.ndim == 3 else np.ones(SIZE, bool)
    outputs = outputs[keep]
    if "regression" in name:
        loss = np.mean((outputs - np.asarray(split.targets, float)[keep]) ** 2)
        expected = {"loss": loss, "rmse": np.sqrt(loss)}
    else:
        labels = split.labels[keep]
        loss = -log_softmax(outputs, -1)[np.arange(len(labels)), labels].mean()
        expected = {"loss": loss, "accuracy": (outputs.argmax(-1) == labels).mean()}
        if name == "language modeling":
            expected = {"loss": loss, "perplexity": np.exp(loss), "bits": loss / np.log(2)}
    found = reported(state, split, batch_size=32)
    assert found == pytest.approx(expected, rel=1e-5)
    assert next(iter(found)) == "loss"
    assert state.task.best in found


def test_batch_without_valid_steps_changes_nothing():
    state = state_of(Regression(), "none")
    batch = {"inputs": INPUTS, "lengths": np.zeros(SIZE, np.int32), **TARGETS}
    new, metrics = jaxrnn.train_step(state, batch)
    assert (metrics.sums["loss"], metrics.weight) == (0, 0)
    chex.assert_trees_all_equal(new.params, state.params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["classification", "regression"])
def test_outputs_of_low_precision_are_measured_in_float32(name, dtype):
    task, _, predicted = CASES[name]
    outputs = jnp.asarray(100 * RNG.normal(size=(SIZE, WIDTH)), dtype)
    expected = task.measure(outputs.astype(jnp.float32), predicted)
    chex.assert_trees_all_equal(task.measure(outputs, predicted), expected, strict=True)
    assert expected["loss"].dtype == jnp.float32


def test_labels_are_smoothed_in_training_only():
    split, state = case("classification")
    batch = {"inputs": INPUTS, "lengths": LENGTHS, **LABEL}
    trained, evaluated = (measure(state, batch, train=train) for train in (True, False))
    plain = measure(state.replace(task=Classification()), batch, train=True)
    chex.assert_trees_all_equal(evaluated, plain)
    targets = 0.9 * np.eye(WIDTH)[split.labels] + 0.1 / WIDTH
    logits = np.asarray(jaxrnn.predict(state, split), float)
    expected = -(targets * log_softmax(logits, -1)).sum()
    assert float(trained.sums["loss"]) == pytest.approx(expected, rel=1e-5)


def test_targets_may_be_one_number_each():
    state = state_of(Regression(), model=RNNModel(hidden=4, outputs=1))
    column = TARGET["targets"][:, :1]
    flat, expected = (Split(INPUTS, targets=targets) for targets in (column[:, 0], column))
    assert reported(state, flat) == reported(state, expected)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classification", {"pooling": "none"}, r"outputs \(1, classes\) for labels \(1,\)"),
        ("classification of steps", {"pooling": "last"}, r"outputs \(1, 5, classes\)"),
        ("regression", {"pooling": "none"}, r"outputs of the shape of the targets, \(1, 3\)"),
        ("regression", {"task": Classification()}, "needs labels; the batch has inputs"),
        ("classification", {"task": Regression()}, "needs targets; the batch has inputs"),
        ("classification", {"task": LanguageModeling()}, r"labels \(batch, time\); got \(1,"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_outputs_that_do_not_fit_are_refused_before_compiling(name, change, message, streamed):
    split, _ = case(name)
    task, pooling, _ = CASES[name]
    state = state_of(change.get("task", task), change.get("pooling", pooling))
    train, key = (jaxrnn.stream(split, batch_size=33, key=KEY), None) if streamed else (split, KEY)
    with compilations() as names, pytest.raises(ValueError, match=message) as caught:
        jaxrnn.fit(state, train, TRAINER, key=key)
    assert "\n" not in str(caught.value)
    assert names == []


@pytest.mark.program
@pytest.mark.parametrize("name", CASES)
def test_padding_does_not_change_outputs(name):
    """NaN there changes no bit: metrics, gradients, outputs; with augmentation, from streams."""
    split, state = case(name)
    augment = jaxrnn.WarpConfig(shift=1.0).build() if name.startswith("regression") else None
    changes = {"inputs": np.where(PADDING[..., None], np.nan, INPUTS)}
    if np.ndim(split.labels) == 2:
        changes["labels"] = np.where(PADDING, 99, split.labels)
    if np.ndim(split.targets) == 3:
        changes["targets"] = np.where(PADDING[..., None], np.inf, split.targets)
    results = []
    for data in (split, split.replace(**changes)):
        options = {"evals": {"test": data}, "augment": augment, "devices": 1}
        fitted, history = jaxrnn.fit(state, data, TRAINER, key=KEY, **options)
        outputs = np.asarray(jaxrnn.predict(state, data))
        outputs = np.where(PADDING[..., None], 0, outputs) if outputs.ndim == 3 else outputs
        streamed = jaxrnn.evaluate(state, jaxrnn.stream(data, batch_size=33))
        row = {**history.rows[0], "seconds": 0}
        for name, value in reported(fitted, data).items():
            assert row[f"test_{name}"] == pytest.approx(float(value), rel=1e-5)
        results.append((fitted.params, row, streamed, outputs))
    chex.assert_tree_all_finite(results)
    chex.assert_trees_all_equal(*results)


@pytest.mark.program
@pytest.mark.parametrize("name", ["classification", "classification of steps"])
@pytest.mark.parametrize(
    ("array", "value", "smoothing"),
    [("labels", value, smoothing) for value in (-1, WIDTH) for smoothing in (0.0, 0.1)]
    + [("lengths", -1, 0.0), ("lengths", TIME + 1, 0.0)],
)
def test_values_out_of_range_make_the_loss_nan(name, array, value, smoothing):
    split, state = case(name)
    state = state.replace(task=Classification(label_smoothing=smoothing))
    values = getattr(split, array).copy()
    values[0] = value
    split = split.replace(**{array: values})
    batch = next(jaxrnn.batches(split, KEY, batch_size=SIZE))
    for metrics in (jaxrnn.train_step(state, batch)[1], jaxrnn.evaluate(state, split)):
        assert np.isnan(metrics.means()["loss"])
