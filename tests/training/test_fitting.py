"""fit: what is trained and recorded, in which order, and when it stops."""

import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import History, RNNModel, TrainerConfig, create_train_state, fit, stream
from jaxrnn.training import NonFiniteLossError, averaged
from jaxrnn.training.history import Clock
from jaxrnn.training.sharding import batch_mesh, replicate
from tests.kill_runs import curves
from tests.shared import compilations

KEY = jax.random.key(5)
WARP = jaxrnn.WarpConfig(shift=2.0).build()
TRAINER = TrainerConfig(epochs=1, batch_size=100)


@pytest.fixture(scope="module")
def held_out():
    return jaxrnn.load(split="test[:130]")


@pytest.mark.program
@pytest.mark.parametrize(("most", "devices"), [(64, 1), (3, 2)])
def test_fit_is_bit_identical_to_its_epochs(state, digits, held_out, monkeypatch, most, devices):
    """Also if each epoch is divided into blocks: of eight steps, of 3, 2, 2 and the short one."""
    monkeypatch.setattr("jaxrnn.training.epochs._STEPS_AT_ONCE", most)
    told = []

    class Hook:
        def during(self, epoch, fraction):
            told.append((epoch, fraction))

        def __call__(self, record):
            told.append(record.history.rows[-1]["epoch"])

    evals = {"validation": digits, "test": held_out}
    options = {"evals": evals, "augment": WARP, "devices": devices, "hooks": [Hook()]}
    trainer = TrainerConfig(epochs=2, batch_size=64)
    fitted, history = fit(state, digits, trainer, key=KEY, **options)

    mesh = batch_mesh(64, devices)
    by_hand, split = replicate((state, digits), mesh)
    options = {"batch_size": 64, "augment": WARP, "mesh": mesh}
    for epoch, row in enumerate(history, start=1):
        key = jax.random.fold_in(KEY, epoch)
        by_hand, train = jaxrnn.train_epoch(by_hand, split, key, **options)
        local = jax.device_get(by_hand)
        measured = {"train": train, **{n: jaxrnn.evaluate(local, d) for n, d in evals.items()}}
        for name, metrics in measured.items():
            for metric, value in metrics.means().items():
                assert row[f"{name}_{metric}"] == pytest.approx(float(value), rel=1e-5)
        assert (row["epoch"], row["seconds"] > 0) == (epoch, True)
    chex.assert_trees_all_equal(fitted, by_hand)
    # While a block is computed, those before the last are done.
    fractions = {64: [0, 0], 3: [0, 0, 3 / 8, 5 / 8]}[most]
    assert told == [*((1, done) for done in fractions), 1, *((2, done) for done in fractions), 2]


@pytest.mark.program
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_last_batch_curve_is_measured_after_its_update(state, digits, drop_remainder):
    options = {"batch_size": 64, "drop_remainder": drop_remainder}
    trainer = TrainerConfig(epochs=1, train_curve="last_batch", **options)
    fitted, history = fit(state, digits, trainer, key=KEY)
    *_, last = jaxrnn.batches(digits, jax.random.fold_in(KEY, 1), **options)
    assert len(last["labels"]) == (64 if drop_remainder else 500 % 64)
    means = jaxrnn.evaluate(fitted, jaxrnn.Split(**last)).means()
    assert history["train_loss"][0] == pytest.approx(float(means["loss"]), rel=1e-5)
    assert history["train_accuracy"][0] == pytest.approx(float(means["accuracy"]))


@pytest.mark.program
@pytest.mark.parametrize(("streamed", "steps"), [(False, None), (True, None), (True, 4)])
def test_continuing_from_a_history_is_bit_identical(state, digits, streamed, steps):
    options = {"batch_size": 100, "key": KEY, "steps_per_epoch": steps}  # five are a pass
    train, key = (stream(digits, **options), None) if streamed else (digits, KEY)
    trainer = TrainerConfig(epochs=3, batch_size=100)
    whole_state, whole = fit(state, train, trainer, key=key)
    part_state, part = fit(state, train, TRAINER, key=key)
    rest_state, rest = fit(part_state, train, trainer, key=key, history=part)
    chex.assert_trees_all_equal(whole_state, rest_state)
    assert curves(rest) == curves(whole)


@pytest.mark.parametrize("key", [5, np.uint32(5), jax.random.PRNGKey(5)])
def test_keys_and_numbers_of_any_kind(state, digits, key):
    expected = fit(state, digits, TRAINER, key=KEY)[0]
    trainer = TrainerConfig(epochs=np.int64(1), batch_size=jnp.int32(100))
    chex.assert_trees_all_equal(fit(state, digits, trainer, key=key)[0], expected)
    expected, found = (jaxrnn.train_epoch(state, digits, k, batch_size=100) for k in (KEY, key))
    chex.assert_trees_all_equal(found, expected)


def test_all_hooks_are_called_in_order_and_any_of_them_stops(state, digits, capfd):
    seen = []

    def stop(record):
        seen.append(len(record.history))
        return len(record.history) == 2

    def look(record):
        assert record.seconds["training"] >= record.history["seconds"].sum() * 0.99
        assert record.key == KEY
        seen.append((int(record.state.step), record.examples))

    trainer = TrainerConfig(epochs=9, batch_size=100)
    _, history = fit(state, digits, trainer, key=KEY, hooks=[stop, look])
    assert seen == [1, (5, 500), 2, (10, 500)]
    assert (len(history), capfd.readouterr()) == (2, ("", ""))


@pytest.mark.program
@pytest.mark.parametrize("streamed", [False, True])
def test_second_fit_compiles_nothing(state, digits, held_out, streamed):
    trainer = TrainerConfig(epochs=2, batch_size=64, train_curve="last_batch")

    def run():
        train = stream(digits, batch_size=64, key=KEY) if streamed else digits
        key = None if streamed else KEY
        fit(state, train, trainer, key=key, evals={"test": held_out})

    run()
    with compilations() as names:
        run()
    assert names == []


@pytest.mark.parametrize(
    ("update", "step", "streamed"), [(8, 4, False), (10, 5, False), (10, 5, True)]
)
def test_non_finite_loss_is_located(digits, streamed, update, step):
    """The parameters are infinite after some update; so is the next loss of that epoch, if any."""
    optimizer = optax.sgd(lambda count: jnp.where(count < update - 1, 0.1, jnp.inf))
    state = create_train_state(KEY, RNNModel(hidden=4), optimizer, digits.inputs)
    seen = []
    train, key = (stream(digits, batch_size=100, key=KEY), None) if streamed else (digits, KEY)
    trainer = TrainerConfig(epochs=3, batch_size=100)
    with pytest.raises(NonFiniteLossError, match=f"from epoch 2, step {step} on") as caught:
        fit(state, train, trainer, key=key, hooks=[lambda record: seen.append(len(record.history))])
    assert (caught.value.epoch, caught.value.step) == (2, step)
    assert seen == [1]


def test_missing_values_are_named_and_do_not_choose(state):
    inputs = np.random.default_rng(0).random((40, 28, 28)).astype(np.float32)
    good, bad = jaxrnn.Split(inputs, np.arange(40) % 10), inputs.copy()
    bad[7, 2, 1] = np.nan
    missing, trainer = good.replace(inputs=bad), TrainerConfig(epochs=2, batch_size=20)
    for train, evals, name in ((missing, {}, "train"), (good, {"validation": missing}, "validat")):
        with pytest.raises(ValueError, match=f"{name}.*: inputs must be finite; .*example 7, time"):
            fit(state, train, trainer, key=KEY, evals=evals)
    with pytest.raises(ValueError, match=r"inputs must be finite; got nan in example 7, time st"):
        fit(state, stream(missing, batch_size=20, key=KEY), trainer)

    class Undefined(jaxrnn.Classification):
        def summarize(self, means):
            return {**super().summarize(means), "accuracy": float("nan")}

    evals, seen = {"validation": good, "test": good}, []
    undefined = state.replace(task=Undefined())
    with pytest.raises(ArithmeticError, match=r"validation_accuracy is nan after epoch 1"):
        fit(undefined, good, trainer, key=KEY, evals=evals, hooks=[seen.append])
    assert not seen


def test_bad_input(state, digits):
    labels, lengths = np.full(500, 10), np.full(500, 29)
    unknown, long = digits.replace(labels=labels), digits.replace(lengths=lengths)
    empty = jax.tree.map(lambda leaf: leaf[:0], digits)
    streams = [stream(split, batch_size=50, key=KEY) for split in (digits, unknown, long)]
    part = stream(digits, batch_size=50, drop_remainder=True)
    source, reserved = jaxrnn.Source(split="test[:5]"), ("train", "train_part", "best")
    other = digits.replace(class_names=[*"1234567890"])
    narrow = digits.replace(inputs=digits.inputs[..., :9])
    for message, train, options in (
        ("labels must be between 0 and 9.*got 10 to 10", unknown, {}),
        ("labels must be between 0 and 9", streams[1], {"key": None}),
        ("labels must be between 0 and 9", digits, {"evals": {"test": streams[1]}}),
        ("lengths must be between 0 and the 28 time", long, {}),
        ("lengths must be between 0 and the 28 time", streams[2], {"key": None}),
        ("batch size must be between 1 and the 0", empty, {}),
        ("batch size must be between 1 and the 500", digits, {"batch_size": 501}),
        ("train_curve must be epoch or last_batch; got 'mean'", digits, {"train_curve": "mean"}),
        ("steps_per_epoch is an option of streams", digits, {"steps_per_epoch": 2}),
        ("every epoch from 1 on", digits, {"history": History().append(epoch=5)}),
        ("devices must be between 1 and 4; got 5", digits, {"devices": 5}),
        *(
            ("that don't begin with train or best; got", digits, {"evals": {n: digits}})
            for n in reserved
        ),
        ("the splits must have the same class names", digits, {"evals": {"test": other}}),
        (
            r"test split: .*\(9, .*\(28, ",
            digits,
            {"evals": {"test": narrow}},
        ),
        ("training on a split needs a key", digits, {"key": None}),
        ("give the key of the data order to the stream", streams[0], {}),
        ("give the key of the data order to the stream", part, {"key": None}),
        ("one pass over all examples", digits, {"evals": {"test": part}}),
        ("there are no examples to evaluate", digits, {"evals": {"test": empty}}),
        ("expected a Split or a stream; got Source", digits, {"evals": {"test": source}}),
        *(("expected a Split or a stream", train, {}) for train in ((1, 2), {}, labels, source)),
    ):
        fields = {n: options.pop(n) for n in vars(TRAINER) if n in options}
        trainer = TrainerConfig(**{"epochs": 1, "batch_size": 100, **fields})
        with pytest.raises(ValueError, match=message):
            fit(state, train, trainer, **{"key": KEY, **options})


@pytest.mark.program
def test_average_is_evaluated(digits, held_out):
    optimizer = jaxrnn.Adam(learning_rate=0.01, average=0.99).build()
    state = create_train_state(KEY, RNNModel(hidden=8), optimizer, digits.inputs)
    fitted, history = fit(state, digits, TRAINER, key=KEY, evals={"test": held_out})
    states = averaged(fitted), fitted
    average, last = (float(jaxrnn.evaluate(state, held_out).means()["loss"]) for state in states)
    assert history["test_loss"][0] == pytest.approx(average, rel=1e-5)
    assert average != pytest.approx(last)


def test_clock_counts_compilation_apart():
    clock = Clock()
    with clock("training"):
        jax.jit(lambda x: x * np.float32(3.25))(1.0)
    assert (compiled := clock.seconds["compilation"]) > 0
    with clock("training"):  # what another thread compiles meanwhile
        thread = threading.Thread(target=jax.jit(lambda x: x * np.float32(4.25)), args=(1.0,))
        thread.start()
        thread.join()
    assert clock.seconds["compilation"] == compiled
