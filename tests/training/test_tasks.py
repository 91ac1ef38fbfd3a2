"""Tasks against numpy; what must not count; and the same numbers in every loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy.special import log_softmax

import jaxrnn
from jaxrnn import Classification, LanguageModeling, Regression, RNNModel, Split, TrainerConfig
from jaxrnn.training import measure
from tests.conftest import compilations

KEY = jax.random.key(3)
SIZE, TIME, WIDTH = 70, 5, 3
OPTIMIZER = jaxrnn.Adam(learning_rate=1e-2).build()
TRAINER = TrainerConfig(epochs=1, batch_size=33)  # 70 = 33 + 33 + 4
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


def state_of(task, pooling="last", model=None, optimizer=OPTIMIZER):
    model = model or RNNModel(hidden=4, outputs=WIDTH, pooling=pooling)
    return jaxrnn.create_train_state(0, model, optimizer, INPUTS, task)


def reported(state, split, **options):
    metrics = jax.device_get(jaxrnn.evaluate(state, split, **options))
    return state.task.summarize(metrics.means())


def cross_entropy(logits, labels):
    """By definition, in float64."""
    return -np.take_along_axis(log_softmax(logits, -1), labels[..., None], -1)[..., 0]


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
        loss = cross_entropy(outputs, labels).mean()
        expected = {"loss": loss, "accuracy": (outputs.argmax(-1) == labels).mean()}
        if name == "language modeling":
            expected = {"loss": loss, "perplexity": np.exp(loss), "bits": loss / np.log(2)}
    found = reported(state, split, batch_size=32)
    assert found == pytest.approx(expected, rel=1e-5)
    assert next(iter(found)) == "loss"
    assert state.task.best in found


@pytest.mark.program
@pytest.mark.parametrize("name", ["classification of steps", "regression"])
@pytest.mark.parametrize("streamed", [False, True])
def test_fit_gives_the_numbers_of_the_plain_loop(name, streamed):
    """On three devices; with weights and without."""
    split, state = case(name)
    trainer = TrainerConfig(epochs=2, batch_size=33)
    train, key = (jaxrnn.stream(split, batch_size=33, key=KEY), None) if streamed else (split, KEY)
    fitted, history = jaxrnn.fit(state, train, trainer, key=key, evals={"test": split}, devices=3)
    for epoch, row in enumerate(history, start=1):
        total = jaxrnn.Metrics.zero()
        for batch in jaxrnn.batches(split, jax.random.fold_in(KEY, epoch), batch_size=33):
            state, metrics = jaxrnn.train_step(state, batch)
            total += metrics
        measured = {"train": state.task.summarize(jax.device_get(total.means()))}
        measured["test"] = reported(state, split)
        for name, metrics in measured.items():
            of_split = {metric: row[f"{name}_{metric}"] for metric in metrics}
            chex.assert_trees_all_close(of_split, dict(metrics), rtol=1e-4)
    chex.assert_trees_all_close(fitted.params, state.params, atol=1e-5)


def test_batch_without_valid_steps_changes_nothing():
    state = state_of(Regression(), "none", optimizer=optax.sgd(1.0))
    batch = {"inputs": INPUTS, "lengths": np.zeros(SIZE, np.int32), **TARGETS}
    new, metrics = jaxrnn.train_step(state, batch)
    assert (metrics.sums["loss"], metrics.weight) == (0, 0)
    chex.assert_trees_all_equal(new.params, state.params)


class LowPrecision(nn.Module):
    """A network whose outputs have few bits."""

    dtype: type

    @nn.compact
    def __call__(self, inputs, lengths=None):
        return (nn.Dense(WIDTH)(inputs.reshape(len(inputs), -1)) * 100.0).astype(self.dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("predicted", [LABEL, TARGET])
def test_metrics_are_float32_whatever_the_network_computes_in(predicted, dtype):
    task = Classification() if predicted is LABEL else Regression()
    state = state_of(task, model=LowPrecision(dtype))
    _, metrics = jaxrnn.train_step(state, {"inputs": INPUTS, **predicted})
    outputs = jaxrnn.predict(state, Split(INPUTS))
    chex.assert_type([outputs, metrics.sums["loss"]], [dtype, jnp.float32])
    outputs = np.asarray(outputs, float)
    if predicted is LABEL:
        losses = cross_entropy(outputs, LABEL["labels"])
        assert metrics.sums["accuracy"].dtype == jnp.int32
    else:
        losses = ((outputs - TARGET["targets"]) ** 2).mean(-1)
    assert float(metrics.means()["loss"]) == pytest.approx(losses.mean(), rel=1e-5)


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
def test_what_follows_the_end_does_not_matter(name):
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
        curves = [{**row, "seconds": 0} for row in history]
        results.append((fitted.params, curves, streamed, outputs))
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
    for metrics in (
        jaxrnn.train_step(state, batch)[1],
        jaxrnn.train_epoch(state, split, KEY, batch_size=SIZE)[1],
        jaxrnn.evaluate(state, split),
    ):
        assert np.isnan(metrics.means()["loss"])
