"""fit: what is recorded, in which order, and how it is shown."""

import io
import re
import sys
import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jaxrnn.training.clock import Clock

import jaxrnn
from jaxrnn import History, RNNModel, fit
from jaxrnn.runs.errors import reading
from tests.conftest import assert_identical, compilations, leaves

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def held_out():
    return jaxrnn.load(split="test[:130]")


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.program
def test_fit_is_its_epochs(state, digits, held_out):
    fitted, history = fit(
        state,
        digits,
        key=KEY,
        epochs=2,
        batch_size=64,
        devices=1,
        evals={"validation": digits, "test": held_out},
    )
    by_hand = state
    for epoch, row in enumerate(history, start=1):
        key = jax.random.fold_in(KEY, epoch)
        by_hand, train = jaxrnn.train_epoch(by_hand, digits, key, batch_size=64)
        measured = {
            "train": train,
            "validation": jaxrnn.evaluate(by_hand, digits),
            "test": jaxrnn.evaluate(by_hand, held_out),
        }
        assert row["epoch"] == epoch
        assert row["seconds"] > 0
        for name, metrics in measured.items():
            for metric, value in metrics.means().items():
                assert row[f"{name}_{metric}"] == pytest.approx(float(value), rel=1e-6)
    assert_identical(fitted.params, by_hand.params)


@pytest.mark.program
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_last_batch_curve_is_measured_after_its_update(state, digits, drop_remainder):
    options = {"batch_size": 64, "drop_remainder": drop_remainder}
    fitted, history = fit(state, digits, key=KEY, epochs=1, train_curve="last_batch", **options)
    *_, last = jaxrnn.batches(digits, jax.random.fold_in(KEY, 1), **options)
    assert len(last["labels"]) == (64 if drop_remainder else 500 % 64)
    means = jaxrnn.evaluate(fitted, jaxrnn.Split(**last)).means()
    assert history["train_loss"][0] == pytest.approx(float(means["loss"]), rel=1e-5)
    assert history["train_accuracy"][0] == pytest.approx(float(means["accuracy"]))


def test_going_on_from_a_history_is_the_same_as_never_stopping(state, digits):
    whole_state, whole = fit(state, digits, key=KEY, epochs=3, batch_size=100)
    part_state, part = fit(state, digits, key=KEY, epochs=1, batch_size=100)
    rest_state, rest = fit(part_state, digits, key=KEY, epochs=3, batch_size=100, history=part)
    assert_identical(whole_state.params, rest_state.params)
    assert without_seconds(whole) == without_seconds(rest)


def test_hooks_are_called_in_order_after_every_epoch(state, digits, tmp_path):
    seen = []

    def write(record):
        record.mean.to_csv(tmp_path / "history.csv")

    def read(record):
        on_disk = History.from_csv(tmp_path / "history.csv")
        assert on_disk == record.history
        assert record.seconds["training"] >= record.history["seconds"].sum() * 0.99
        seen.append((int(record.state.step), len(on_disk), record.examples))

    fit(state, digits, key=KEY, epochs=3, batch_size=100, hooks=[write, read])
    assert seen == [(5, 1, 500), (10, 2, 500), (15, 3, 500)]
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_a_second_fit_compiles_nothing(state, digits, held_out):
    def run():
        fit(state, digits, key=KEY, epochs=2, batch_size=90, evals={"test": held_out},
            train_curve="last_batch")  # fmt: skip

    run()
    with compilations() as names:
        run()
    assert names == []


@pytest.mark.program
@pytest.mark.parametrize(("epochs", "batch_size"), [(0, 10), (-1, 10), (1, 0), (1, 501)])
def test_bad_input(state, digits, epochs, batch_size):
    with pytest.raises(ValueError, match=r"epochs must be|batch size must be"):
        fit(state, digits, key=KEY, epochs=epochs, batch_size=batch_size)


def test_bad_labels_lengths_and_history(state, digits):
    def refuse(match, train=digits, **options):
        with pytest.raises(ValueError, match=match):
            fit(state, train, key=KEY, epochs=1, batch_size=10, **options)

    labels = digits.labels.copy()
    labels[7] = 10
    refuse("labels must be between 0 and 9.*got 0 to 10", digits.replace(labels=labels))
    lengths = np.full(500, 29, np.int32)
    refuse("lengths must be between 0 and the 28 time", digits.replace(lengths=lengths))
    refuse("train_curve must be epoch or last_batch; got 'mean'", train_curve="mean")
    refuse("every epoch from 1 on", history=History().append(epoch=5))
    refuse("devices must be between 1 and 4; got 5", devices=5)
    refuse("identifiers other than train; got .'train'", evals={"train": digits})


def test_a_loss_that_is_not_finite(digits, tmp_path):
    """After the eighth step the parameters are infinite, and so is the ninth's loss."""
    optimizer = optax.sgd(lambda count: jnp.where(count < 7, 0.1, jnp.inf))
    model = jaxrnn.RNNModel(hidden=4)
    state = jaxrnn.create_train_state(KEY, model, optimizer, digits.inputs)
    checkpoints = jaxrnn.Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(
        jaxrnn.training.NonFiniteLossError, match="from epoch 2, step 4 on"
    ) as raised:
        fit(state, digits, key=KEY, epochs=3, batch_size=100, hooks=[checkpoints])
    assert (raised.value.epoch, raised.value.step) == (2, 4)
    checkpoints.wait()
    assert checkpoints.epochs == [1]


def test_stop_ends_the_training_there(state, digits):
    _, history = fit(
        state,
        digits,
        key=KEY,
        epochs=9,
        batch_size=100,
        hooks=[lambda record: len(record.history) == 2],
    )
    assert len(history) == 2


def test_lines_where_there_is_no_terminal(state, digits, held_out, capsys):
    fit(state, digits, key=KEY, epochs=2, batch_size=100, evals={"test": held_out},
        hooks=[jaxrnn.runs.Progress(2)])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines, start=1):
        assert line.startswith(f"epoch {epoch}/2: loss ")
        assert "accuracy" in line
        assert "test accuracy" in line
        assert line.endswith(" examples/s")


def test_bar_on_a_terminal(state, digits, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with jaxrnn.runs.Progress(2) as progress:
        assert "epoch 1/2   0%" in terminal.getvalue()
        fit(state, digits, key=KEY, epochs=2, batch_size=100, hooks=[progress])
    shown = terminal.getvalue()
    assert "epoch 2/2 100%" in shown
    assert "loss" in shown
    assert "examples/s" in shown


def test_long_epochs_move_the_bar_and_are_the_same(state, digits, monkeypatch):
    """Of an epoch of five steps, three parts; the curves have the same bits."""

    class During:
        told: ClassVar[list] = []

        def during(self, epoch, fraction):
            self.told.append((epoch, round(fraction, 2)))

        def __call__(self, record):
            self.told.append(record.history.rows[-1]["epoch"])

    options = {"key": KEY, "epochs": 2, "batch_size": 100}
    plain = fit(state, digits, **options)
    weights = sum(leaf.size for leaf in leaves(state.params))
    monkeypatch.setattr("jaxrnn.training.loops._OPERATIONS", 6 * weights * 28 * 500 / 3)
    in_parts = fit(state, digits, hooks=[During()], **options)
    assert During.told == [(1, 0.2), (1, 0.6), 1, (2, 0.2), (2, 0.6), 2]
    assert_identical(plain[0].params, in_parts[0].params)
    assert without_seconds(plain[1]) == without_seconds(in_parts[1])


@pytest.mark.parametrize("columns", [40, 100])
def test_bar_keeps_to_the_width_of_the_terminal(columns, monkeypatch):
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (columns, 24))
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    rows = History().append(epoch=1, train_loss=0.5, train_accuracy=0.5, seconds=1.0)
    record = jaxrnn.training.Record(
        SimpleNamespace(task=jaxrnn.Classification()), rows, KEY, 500, {}
    )
    with jaxrnn.runs.Progress(2) as progress:
        progress.during(1, 0.5)
        progress(record)
    frames = re.split(r"[\r\n]+", terminal.getvalue())
    assert max(map(len, frames)) <= columns
    assert any("loss" in frame for frame in frames)


def test_silent_by_default(state, digits, capfd):
    fit(state, digits, key=KEY, epochs=1, batch_size=100)
    assert capfd.readouterr() == ("", "")


def test_clock_counts_compilation_apart():
    clock = Clock()
    with clock("training"):
        jax.jit(lambda x: x * np.float32(3.25))(1.0)
    assert clock.seconds["compilation"] > 0
    compiled = clock.seconds["compilation"]
    with clock("training"):
        pass
    assert clock.seconds["compilation"] == compiled
    assert set(clock.seconds) == {"compilation", "training"}
    with clock("training"):  # what another thread compiles meanwhile
        thread = threading.Thread(target=jax.jit(lambda x: x * np.float32(4.25)), args=(1.0,))
        thread.start()
        thread.join()
    assert clock.seconds["compilation"] == compiled
    with clock("training"), pytest.raises(RuntimeError, match="running already"), clock("training"):
        pass


@pytest.mark.program
@pytest.mark.parametrize(
    ("devices", "train_curve"),
    [(1, "epoch"), (3, "last_batch")],  # three divide four unevenly
)
def test_many_networks_are_each_as_if_alone(digits, held_out, train_curve, devices, tmp_path):
    model, optimizer = jaxrnn.RNNModel(hidden=8), jaxrnn.Adam(average=0.9).build()
    keys = jax.random.split(jax.random.key(4), 4)
    task = jaxrnn.Classification(label_smoothing=0.1)
    states = [jaxrnn.create_train_state(key, model, optimizer, digits.inputs, task) for key in keys]
    options = {
        "epochs": 2, "batch_size": 64, "evals": {"validation": held_out},
        "train_curve": train_curve, "augment": jaxrnn.WarpConfig(shift=1.0).build(),
    }  # fmt: skip
    together, histories = fit(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *states),
        digits, key=keys, devices=devices, **options,
        hooks=[lambda record: record.mean.to_csv(tmp_path / "history.csv")],
    )  # fmt: skip
    assert len(histories) == 4
    members = [jax.tree.map(lambda leaf, n=n: leaf[n], together.params) for n in range(4)]
    assert History.from_csv(tmp_path / "history.csv") == jaxrnn.training.mean_history(histories)
    for number, (state, key) in enumerate(zip(states, keys, strict=True)):
        alone, history = fit(state, digits, key=key, devices=1, **options)
        for a, b in zip(leaves(members[number]), leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        for column in ("train_loss", "validation_loss"):
            np.testing.assert_allclose(histories[number][column], history[column], rtol=1e-4)


@pytest.mark.program
def test_many_networks_go_on_from_a_checkpoint(digits, tmp_path):
    model, optimizer = jaxrnn.RNNModel(hidden=8), jaxrnn.Adam().build()
    keys = jax.random.split(jax.random.key(4), 2)
    states = [jaxrnn.create_train_state(key, model, optimizer, digits.inputs) for key in keys]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    options = {"key": keys, "batch_size": 100}
    whole, histories = fit(states, digits, epochs=3, **options)
    with jaxrnn.Checkpoints(tmp_path) as checkpoints:
        fit(states, digits, epochs=2, hooks=[checkpoints], **options)
    restored, part, restored_keys = jaxrnn.Checkpoints(tmp_path).restore(lambda _: states)
    assert (restored_keys == keys).all()
    rest, resumed = fit(restored, digits, epochs=3, history=part, **options)
    assert_identical(rest.params, whole.params)
    for a, b in zip(resumed, histories, strict=True):
        assert without_seconds(a) == without_seconds(b)
    with pytest.raises(ValueError, match="2 networks need as many histories; got 1"):
        fit(states, digits, epochs=3, history=part[:1], **options)
    with pytest.raises(ValueError, match="every epoch from 1 on"):
        fit(states, digits, epochs=3, history=(part[0], History()), **options)


def test_keys_of_the_older_kind(state, digits):
    _, old = fit(state, digits, key=jax.random.PRNGKey(5), epochs=1, batch_size=100)
    _, new = fit(state, digits, key=KEY, epochs=1, batch_size=100)
    assert without_seconds(old) == without_seconds(new)


def test_the_average_is_what_is_evaluated(digits, held_out):
    optimizer = jaxrnn.Adam(learning_rate=0.01, average=0.99).build()
    model = jaxrnn.RNNModel(hidden=8)
    state = jaxrnn.create_train_state(KEY, model, optimizer, digits.inputs)
    fitted, history = fit(
        state, digits, key=KEY, epochs=1, batch_size=100, evals={"test": held_out}
    )
    of_average = jaxrnn.evaluate(jaxrnn.training.averaged(fitted), held_out).means()["loss"]
    assert history["test_loss"][0] == pytest.approx(float(of_average), rel=1e-6)
    assert history["test_loss"][0] != pytest.approx(
        float(jaxrnn.evaluate(fitted, held_out).means()["loss"])
    )


def test_shared_memory_that_is_too_small_is_named(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**26))
    message = r"has ended; /dev/shm has only 64 MiB left: worker 0"
    with pytest.raises(OSError, match=message), reading(workers=1):
        raise RuntimeError("worker 0 was terminated")


class Unusual(nn.Module):
    """A model with an attribute of any kind, and what only some models have."""

    config: Any = None
    dropout: float = 0.0
    normalize: bool = False

    @nn.compact
    def __call__(self, inputs, lengths=None):
        features = nn.Dropout(self.dropout, deterministic=not self.dropout)(inputs.mean(1))
        if self.normalize:
            features = nn.BatchNorm(use_running_average=False)(features)
        return nn.Dense(10)(features)


@pytest.mark.parametrize("config", [[8, 3], {"out": 3}, np.zeros(4), jnp.zeros(4)])
def test_models_that_cannot_be_hashed(digits, config):
    states = [
        jaxrnn.create_train_state(1, Unusual(one), optax.sgd(0.1), digits.inputs)
        for one in (config, None)
    ]
    fitted = [fit(one, digits, key=0, epochs=1, batch_size=100)[0] for one in states]
    assert_identical(fitted[0].params, fitted[1].params)


def test_models_that_draw_random_numbers(digits):
    state = jaxrnn.create_train_state(1, Unusual(dropout=0.5), optax.sgd(0.1), digits.inputs)
    with pytest.raises(
        ValueError, match="draws random numbers in evaluation; its call must take train"
    ):
        fit(state, digits, key=0, epochs=1, batch_size=100)


def test_models_with_other_variables(digits):
    with pytest.raises(ValueError, match="other than params, which are not kept: batch_stats"):
        jaxrnn.create_train_state(1, Unusual(normalize=True), optax.sgd(0.1), digits.inputs)


@pytest.mark.program
def test_partitioned_parameters_train(digits):
    boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    states = [
        jaxrnn.create_train_state(
            1,
            RNNModel(cell=nn.SimpleCell(8, kernel_init=init)),
            optax.adam(0.1),
            digits.inputs,
        )
        for init in (boxed, nn.initializers.lecun_normal())
    ]
    fitted, expected = (fit(one, digits, key=0, epochs=1, batch_size=100)[0] for one in states)
    assert isinstance(fitted.params["layer0"]["i"]["kernel"], nn.Partitioned)
    assert_identical(nn.meta.unbox(fitted.params), expected.params)
