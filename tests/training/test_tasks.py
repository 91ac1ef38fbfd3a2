"""Tasks: what they measure, and that every way to train gives the numbers of the plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxrnn
from jaxrnn import (
    Classification,
    LanguageModeling,
    Metrics,
    Regression,
    RNNModel,
    Split,
    create_train_state,
    fit,
    stream,
)
from jaxrnn.training.sharding import batch_mesh, replicate
from tests.conftest import compilations, leaves
from tests.training.test_epochs import cross_entropy

KEY = jax.random.key(3)
SIZE, TIME, WIDTH = 70, 5, 3
OPTIMIZER = jaxrnn.Adam(learning_rate=1e-2).build()


def arrays(seed=0):
    """Sequences of different lengths, and anything to predict from them."""
    generator = np.random.default_rng(seed)
    return {
        "inputs": generator.normal(size=(SIZE, TIME, 2)).astype(np.float32),
        "lengths": generator.integers(1, TIME + 1, SIZE).astype(np.int32),
        "label": generator.integers(0, WIDTH, SIZE).astype(np.int32),
        "labels": generator.integers(0, WIDTH, (SIZE, TIME)).astype(np.int32),
        "target": generator.normal(size=(SIZE, WIDTH)).astype(np.float32),
        "targets": generator.normal(size=(SIZE, TIME, WIDTH)).astype(np.float32),
    }


# name: the task, how the network pools, and which arrays it compares with.
CASES = {
    "classification": (Classification(label_smoothing=0.1), "last", {"labels": "label"}),
    "classification of steps": (Classification(), "none", {"labels": "labels"}),
    "regression": (Regression(), "last", {"targets": "target"}),
    "regression of steps": (Regression(), "none", {"targets": "targets"}),
    "language modeling": (LanguageModeling(), "none", {"labels": "labels"}),
}


def case(name, seed=0):
    """The split of a case, and the state of a network for it at step 0."""
    task, pooling, names = CASES[name]
    found = arrays(seed)
    given = {role: found[array] for role, array in names.items()}
    split = Split(inputs=found["inputs"], lengths=found["lengths"], **given)
    return split, state_of(task, pooling)


def state_of(task, pooling="last", seed=0, model=None):
    model = model or RNNModel(hidden=4, outputs=WIDTH, pooling=pooling)
    return create_train_state(jax.random.key(seed), model, OPTIMIZER, np.zeros((1, TIME, 2)), task)


def expected(name, outputs, split):
    """The metrics to report, in float64."""
    outputs = np.asarray(outputs, float)
    valid = np.arange(TIME) < split.lengths[:, None]
    keep = valid if outputs.ndim == 3 else np.ones(SIZE, bool)
    outputs = outputs[keep]
    if "regression" in name:
        loss = np.mean((outputs - np.asarray(split.targets, float)[keep]) ** 2)
        return {"loss": loss, "rmse": np.sqrt(loss)}
    labels = split.labels[keep]
    loss = cross_entropy(outputs, labels).mean()
    if name == "language modeling":
        return {"loss": loss, "perplexity": np.exp(loss), "bits": loss / np.log(2)}
    return {"loss": loss, "accuracy": (outputs.argmax(-1) == labels).mean()}


@pytest.mark.parametrize("name", CASES)
def test_metrics_are_those_of_numpy(name):
    split, state = case(name)
    metrics = jaxrnn.evaluate(state, split, batch_size=32)
    found = state.task.summarize(jax.device_get(metrics.means()))
    assert found == pytest.approx(expected(name, jaxrnn.predict(state, split), split), rel=1e-5)
    assert next(iter(found)) == "loss"
    assert state.task.best in found


@pytest.mark.parametrize("name", ["classification of steps", "regression of steps"])
def test_steps_beyond_the_lengths_do_not_count(name):
    split, state = case(name)
    role = "labels" if split.labels is not None else "targets"
    changed = getattr(split, role).copy()
    changed[np.arange(TIME) >= split.lengths[:, None]] += 1
    assert (changed != getattr(split, role)).any()
    for value in ("loss", state.task.best):
        values = [
            state.task.summarize(jax.device_get(jaxrnn.evaluate(state, one).means()))[value]
            for one in (split, split.replace(**{role: changed}))
        ]
        assert values[0] == values[1]


def plain_loop(state, split, key, epochs=2, batch_size=32):
    """Two epochs of train_step, one batch after the other, and the training curve."""
    curve = []
    for epoch in range(1, epochs + 1):
        total = Metrics.zero()
        epoch_key = jax.random.fold_in(key, epoch)
        for batch in jaxrnn.batches(split, epoch_key, batch_size=batch_size):
            state, metrics = jaxrnn.train_step(state, batch)
            total += metrics
        evaluated = jaxrnn.evaluate(state, split)
        rows = {"train": total, "test": evaluated}
        curve.append(
            {
                f"{name}_{metric}": float(value)
                for name, one in rows.items()
                for metric, value in state.task.summarize(jax.device_get(one.means())).items()
            }
        )
    return state, curve


def assert_same(found, expected):
    (state, history), (other, curve) = found, expected
    for row, expected_row in zip(history, curve, strict=True):
        without = {n: value for n, value in row.items() if n not in ("epoch", "seconds")}
        assert without == pytest.approx(expected_row, rel=1e-4)
    for a, b in zip(leaves(state.params), leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.program
@pytest.mark.parametrize("name", ["classification of steps", "regression"])
def test_fit_gives_the_numbers_of_the_plain_loop(name):
    """On three devices, which share batches of 33: 70 = 33 + 33 + 4."""
    split, state = case(name)
    plain = plain_loop(state, split, KEY, batch_size=33)
    options = {"epochs": 2, "evals": {"test": split}}
    assert_same(fit(state, split, key=KEY, batch_size=33, devices=3, **options), plain)


@pytest.mark.program
@pytest.mark.parametrize("name", ["classification", "regression of steps"])
def test_streams_and_seeds_give_the_numbers_of_the_plain_loop(name):
    """From a stream, and for two seeds at once; without weights and with them."""
    split, state = case(name)
    plain = plain_loop(state, split, KEY, batch_size=33)
    options = {"epochs": 2, "evals": {"test": split}}
    assert_same(fit(state, stream(split, batch_size=33, key=KEY), **options), plain)

    keys = jax.random.split(KEY, 2)
    states = [state, state_of(state.task, CASES[name][1], seed=1)]
    together = jax.tree.map(lambda *both: jnp.stack(both), *states)
    together, histories = fit(together, split, key=keys, batch_size=33, devices=2, **options)
    for member in (0, 1):
        alone = plain_loop(states[member], split, keys[member], batch_size=33)
        of_member = jax.tree.map(lambda leaf, n=member: leaf[n], together)
        assert_same((of_member, histories[member]), alone)


@pytest.mark.program
def test_gradient_is_that_of_the_mean_over_all_devices():
    """Shares of a batch with different numbers of valid steps."""
    split, _ = case("regression of steps")
    split = split.replace(lengths=np.where(np.arange(SIZE) % 3 == 0, 1, TIME).astype(np.int32))
    model = RNNModel(hidden=4, outputs=WIDTH, pooling="none")
    state = create_train_state(KEY, model, optax.sgd(1.0), split.inputs, Regression())
    mesh = batch_mesh(69, devices=3)
    assert mesh.size == 3
    first = jax.tree.map(lambda array: array[:69], split)
    new, _ = jaxrnn.train_epoch(*replicate((state, first), mesh), KEY, batch_size=69, mesh=mesh)

    def mean_loss(params):
        outputs = state.apply_fn({"params": params}, first.inputs, first.lengths)
        errors = jnp.square(outputs - first.targets).mean(-1)
        valid = jnp.arange(TIME)[None] < first.lengths[:, None]
        return (errors * valid).sum() / valid.sum()

    steps = jax.tree.map(lambda a, b: a - b, state.params, new.params)
    for a, b in zip(leaves(steps), leaves(jax.grad(mean_loss)(state.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_batch_without_valid_steps_changes_nothing():
    split, _ = case("regression of steps")
    model = RNNModel(hidden=4, outputs=WIDTH, pooling="none")
    state = create_train_state(KEY, model, optax.sgd(1.0), split.inputs, Regression())
    batch = {"inputs": split.inputs, "targets": split.targets, "lengths": np.zeros(SIZE, np.int32)}
    new, metrics = jaxrnn.train_step(state, batch)
    assert (metrics.sums["loss"], metrics.weight) == (0, 0)
    for a, b in zip(leaves(new.params), leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


class LowPrecision(nn.Module):
    """A network whose outputs have few bits."""

    dtype: type
    scale: float = 1.0

    @nn.compact
    def __call__(self, inputs, lengths=None):
        outputs = nn.Dense(WIDTH)(inputs.reshape(len(inputs), -1))
        return (outputs * self.scale).astype(self.dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("task", [Classification(), Regression()])
def test_metrics_are_float32_whatever_the_network_computes_in(task, dtype):
    found = arrays()
    state = state_of(task, model=LowPrecision(dtype, 100.0))
    names = {"labels": found["label"]} if task.best == "accuracy" else {"targets": found["target"]}
    batch = {"inputs": found["inputs"], **names}
    _, metrics = jaxrnn.train_step(state, batch)
    assert metrics.sums["loss"].dtype == jnp.float32
    outputs = jaxrnn.predict(state, Split(**batch))
    assert outputs.dtype == dtype
    outputs = np.asarray(outputs, np.float64)
    if task.best == "accuracy":
        losses = cross_entropy(outputs, found["label"])
        assert metrics.sums["accuracy"].dtype == jnp.int32
    else:
        losses = ((outputs - found["target"].astype(float)) ** 2).mean(-1)
    assert float(metrics.means()["loss"]) == pytest.approx(losses.mean(), rel=1e-5)


def test_labels_are_smoothed_in_training_only():
    split, state = case("classification")
    batch = {"inputs": split.inputs, "labels": split.labels, "lengths": split.lengths}
    trained, evaluated = (
        jaxrnn.training.measure(state, batch, train=train) for train in (True, False)
    )
    plain = jaxrnn.training.measure(state.replace(task=Classification()), batch, train=True)
    assert float(evaluated.sums["loss"]) == float(plain.sums["loss"])
    assert float(trained.sums["loss"]) != pytest.approx(float(plain.sums["loss"]))


def test_targets_may_be_one_number_each():
    found = arrays()
    model = RNNModel(hidden=4, outputs=1)
    state = create_train_state(KEY, model, OPTIMIZER, found["inputs"], Regression())
    targets = found["target"][:, 0]
    flat, column = (
        jaxrnn.evaluate(state, Split(found["inputs"], targets=array)).means()["loss"]
        for array in (targets, targets[:, None])
    )
    assert flat == column


BAD = [
    ("classification", {"pooling": "none"}, r"outputs \(1, classes\) for labels \(1,\)"),
    ("classification of steps", {"pooling": "last"}, r"outputs \(1, 5, classes\)"),
    ("regression", {"pooling": "none"}, r"outputs of the shape of the targets, \(1, 3\)"),
    ("regression", {"task": Classification()}, "Classification needs labels; the batch has inputs"),
    ("classification", {"task": Regression()}, "Regression needs targets; the batch has inputs"),
    ("classification", {"task": LanguageModeling()}, r"expects labels \(batch, time\); got \(1,"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_outputs_that_do_not_fit_are_refused_before_anything_is_compiled(name, change, message):
    split, state = case(name)
    task, pooling, _ = CASES[name]
    state = state_of(change.get("task", task), change.get("pooling", pooling))
    of_split = {"key": KEY, "batch_size": 33}
    for train, options in ((split, of_split), (stream(split, **of_split), {})):
        with compilations() as names, pytest.raises(ValueError, match=message) as caught:
            fit(state, train, epochs=1, **options)
        assert "\n" not in str(caught.value)
        assert names == []


def test_equal_tasks_share_compiled_functions():
    found = arrays()
    batch = {"inputs": found["inputs"], "labels": found["label"]}
    jaxrnn.train_step(state_of(Classification(label_smoothing=0.25)), batch)
    with compilations() as names:
        jaxrnn.train_step(state_of(Classification(label_smoothing=0.25), seed=2), batch)
    assert "jit(train_step)" not in names


@pytest.mark.program
@pytest.mark.parametrize("name", CASES)
def test_what_follows_the_end_does_not_matter(name):
    """NaN there changes no bit: metrics, gradients, outputs; with augmentation, from streams."""
    split, state = case(name)
    augment = jaxrnn.WarpConfig(shift=1.0).build() if name.startswith("regression") else None
    padding = np.arange(TIME) >= split.lengths[:, None]
    changes = {"inputs": np.where(padding[..., None], np.nan, split.inputs)}
    if np.ndim(split.labels) == 2:
        changes["labels"] = np.where(padding, 99, split.labels)
    if np.ndim(split.targets) == 3:
        changes["targets"] = np.where(padding[..., None], np.inf, split.targets)
    damaged = split.replace(**changes)
    options = {"key": KEY, "batch_size": 33, "epochs": 1, "devices": 1, "augment": augment}
    results = []
    for data in (split, damaged):
        fitted, history = jaxrnn.fit(state, data, evals={"test": data}, **options)
        streamed = jaxrnn.training.evaluate_stream(state, stream(data, batch_size=33))
        valid = (
            np.where(padding[..., None], 0, 1)
            if name not in ("classification", "regression")
            else 1
        )
        outputs = np.asarray(jaxrnn.predict(state, data)) * valid
        curves = [{n: v for n, v in row.items() if n != "seconds"} for row in history]
        results.append((fitted.params, curves, streamed.sums, outputs))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.program
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [-1, WIDTH])
@pytest.mark.parametrize("name", ["classification", "classification of steps"])
def test_labels_out_of_range_make_the_loss_nan(name, label, smoothing):
    split, state = case(name)
    state = state.replace(task=Classification(label_smoothing=smoothing))
    labels = split.labels.copy()
    labels[0] = label
    split = split.replace(labels=labels)
    batch = next(jaxrnn.batches(split, KEY, batch_size=SIZE))
    for metrics in (
        jaxrnn.train_step(state, batch)[1],
        jaxrnn.train_epoch(state, split, KEY, batch_size=SIZE)[1],
        jaxrnn.evaluate(state, split),
    ):
        assert np.isnan(metrics.means()["loss"])


@pytest.mark.parametrize("length", [-1, TIME + 1])
@pytest.mark.parametrize("name", ["regression", "language modeling"])
def test_lengths_out_of_range_make_the_loss_nan(name, length):
    split, state = case(name)
    lengths = split.lengths.copy()
    lengths[0] = length
    assert np.isnan(jaxrnn.evaluate(state, split.replace(lengths=lengths)).means()["loss"])
