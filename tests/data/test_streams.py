"""Streams give the batches that a split in memory gives, and go on where they stopped."""

import contextlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import RNNModel, Source, create_train_state, fit, stream
from jaxrnn.training.sharding import batch_mesh
from tests.conftest import assert_identical, leaves

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def source():
    return Source("mnist", split="train[:500]")


def assert_batches(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_batches_are_those_of_the_split(source, digits, drop_remainder):
    batches = stream(source, batch_size=64, key=KEY, drop_remainder=drop_remainder)
    iterator = iter(batches)
    for turn in (1, 2):
        key = jax.random.fold_in(KEY, turn)
        in_memory = jaxrnn.batches(digits, key, batch_size=64, drop_remainder=drop_remainder)
        assert len(batches) == 8 - drop_remainder
        for expected in in_memory:
            assert_batches(next(iterator), expected)


def test_without_a_key_one_pass_in_file_order(source, digits):
    labels = [batch["labels"] for batch in stream(source, batch_size=150)]
    assert [len(some) for some in labels] == [150, 150, 150, 50]
    np.testing.assert_array_equal(np.concatenate(labels), digits.labels)


@pytest.mark.program
@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterator_goes_on_with_the_very_next_batch(source, workers):
    batches = stream(source, batch_size=64, key=KEY, workers=workers)
    with contextlib.closing(iter(batches)) as iterator:
        before = list(itertools.islice(iterator, 11))
        state = json.loads(json.dumps(iterator.get_state()))
        after = list(itertools.islice(iterator, 3))
    with contextlib.closing(iter(batches)) as other:
        other.set_state(state)
        for found, expected in zip(itertools.islice(other, 3), after, strict=True):
            assert_batches(found, expected)
    reference = itertools.islice(stream(source, batch_size=64, key=KEY), 14)
    for found, expected in zip([*before, *after], reference, strict=True):
        assert_batches(found, expected)


def test_epochs_of_some_steps_go_on_through_the_passes(source):
    """Three steps an epoch, seven a pass: what fit sees is what the iterator gives."""
    batches = stream(source, batch_size=64, key=KEY, drop_remainder=True, steps_per_epoch=3)
    assert (len(batches), batches.examples_per_epoch) == (3, 192)
    iterator = iter(batches)
    mesh = batch_mesh(64)
    with contextlib.closing(batches.blocks(mesh)) as blocks:
        for block in itertools.islice(blocks, 4 * batches.blocks_per_epoch):
            for step in range(len(block["labels"])):
                expected = next(iterator)
                np.testing.assert_array_equal(block["inputs"][step], expected["inputs"])
                np.testing.assert_array_equal(block["labels"][step], expected["labels"])
    with contextlib.closing(batches.blocks(mesh, epoch=5)) as blocks:
        np.testing.assert_array_equal(next(blocks)["labels"][0], next(iterator)["labels"])


def new_state(digits):
    model, optimizer = RNNModel(hidden=8), jaxrnn.Adam(learning_rate=1e-2).build()
    return create_train_state(jax.random.key(1), model, optimizer, digits.inputs)


def assert_close(a, b):
    (state, history), (other_state, other_history) = a, b
    for ours, theirs in zip(leaves(state.params), leaves(other_state.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for row, other in zip(history, other_history, strict=True):
        assert row.keys() == other.keys()
        for name in set(row) - {"seconds"}:
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)


@pytest.mark.program
@pytest.mark.parametrize(
    ("batch_size", "options"),
    [  # with and without a rest; on two devices, or on one, as 63 is odd
        (63, {"train_curve": "last_batch"}),
        (64, {"augment": jaxrnn.WarpConfig(shift=1.0).build()}),
        (100, {"train_curve": "last_batch", "devices": 1}),
    ],
)
def test_fit_takes_a_stream_for_a_split(source, digits, batch_size, options):
    test = Source("mnist", split="test[:130]")
    common = {"epochs": 2, **options}
    in_memory = fit(
        new_state(digits), digits, key=KEY, batch_size=batch_size,
        evals={"test": jaxrnn.load("mnist", split="test[:130]")}, **common,
    )  # fmt: skip
    streamed = fit(
        new_state(digits), stream(source, batch_size=batch_size, key=KEY),
        evals={"test": stream(test, batch_size=40)}, **common,
    )  # fmt: skip
    assert_close(streamed, in_memory)


def test_a_stopped_run_goes_on_with_the_same_bits(source, digits, tmp_path):
    def train(**options):
        batches = stream(source, batch_size=50, key=KEY, steps_per_epoch=4)
        return fit(new_state(digits), batches, **{"epochs": 5, **options})

    whole, history = train()
    with jaxrnn.Checkpoints(tmp_path) as checkpoints:
        train(hooks=[checkpoints, lambda record: len(record.history) == 3])
    state, past, key = jaxrnn.Checkpoints(tmp_path).restore(lambda description: new_state(digits))
    batches = stream(source, batch_size=50, key=key, steps_per_epoch=4)
    resumed, other = fit(state, batches, history=past, epochs=5)
    assert_identical(resumed.params, whole.params)
    assert [row["train_loss"] for row in other] == [row["train_loss"] for row in history]


def test_lengths_and_splits_as_sources(digits):
    lengths = np.arange(500, dtype=np.int32) % 28 + 1
    split = digits.replace(lengths=lengths)
    options = {"epochs": 1, "key": KEY}
    in_memory = fit(new_state(digits), split, batch_size=100, **options)
    streamed = fit(new_state(digits), stream(split, batch_size=100, key=KEY), **options)
    assert_close(streamed, in_memory)


def test_a_source_arrives_whole_where_it_is_sent(source):
    other = pickle.loads(pickle.dumps(source))
    assert_batches(other.read([3, 1]), source.read([3, 1]))
    assert (len(other), other.class_names) == (500, source.class_names)


def test_memory_does_not_hold_all_blocks(source, digits):
    """However slow training is, reading stays a few blocks ahead."""
    read = []

    class Counting:
        def __len__(self):
            return 100_000

        def read(self, indices):
            read.append(len(indices))
            batch = source.read([0])
            return {name: np.repeat(array, len(indices), 0) for name, array in batch.items()}

    batches = stream(Counting(), batch_size=100, key=KEY)
    with contextlib.closing(batches.blocks(batch_mesh(100))) as blocks:
        next(blocks)
        before = 0
        while before < len(read):  # until it waits for us
            before = len(read)
            time.sleep(0.5)
    assert max(read) <= 32 * 100
    # One taken; two in Grain's buffer, one on the device, one on its way to each; and the one
    # example that shows the shapes.
    assert 1 < len(read) <= 1 + 2 + 1 + 2 + 1


@pytest.mark.program
def test_fit_reads_in_other_processes(source, digits):
    test = stream(Source("mnist", split="test[:130]"), batch_size=40)
    by_thread, by_process = (
        fit(new_state(digits), stream(source, batch_size=64, key=KEY, workers=workers),
            evals={"test": test}, epochs=2)
        for workers in (0, 2)
    )  # fmt: skip
    assert_close(by_process, by_thread)


PARENT = """
import itertools, jax, multiprocessing, os, signal, sys
from jaxrnn import Source, stream
if __name__ == "__main__":
    source = Source(split="train[:500]")
    iterator = iter(stream(source, batch_size=50, key=jax.random.key(0), workers=1))
    next(iterator)
    (reader,) = multiprocessing.active_children()
    os.kill(reader.pid, signal.SIGINT)  # as Ctrl-C does to all of a terminal's processes
    os.kill(reader.pid, signal.SIGTERM)
    list(itertools.islice(iterator, 30))
    print(reader.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.program
def test_a_reader_ends_with_its_parent_and_not_before(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    done = subprocess.run(
        [sys.executable, tmp_path / "parent.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    reader, deadline = int(done.stdout), time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(reader, 0)
            time.sleep(0.1)
        os.kill(reader, signal.SIGKILL)
        raise AssertionError("the reader was still there")


@pytest.mark.program
def test_labels_that_the_model_does_not_know(digits):
    bad = digits.replace(labels=digits.labels + 10)
    with pytest.raises(ValueError, match="labels must be between 0 and 9"):
        fit(new_state(digits), stream(bad, batch_size=100, key=KEY), epochs=1)
    with pytest.raises(ValueError, match="labels must be between 0 and 9"):
        fit(new_state(digits), digits, key=KEY, batch_size=100, epochs=1,
            evals={"test": stream(bad, batch_size=100)})  # fmt: skip


def test_lengths_that_the_inputs_do_not_have(digits):
    bad = digits.replace(lengths=np.full(500, 29, np.int32))
    with pytest.raises(ValueError, match="lengths must be between 0 and the 28"):
        fit(new_state(digits), stream(bad, batch_size=100, key=KEY), epochs=1)


@pytest.mark.parametrize("options", [{"drop_remainder": True}, {"steps_per_epoch": 2}])
def test_what_is_evaluated_is_all_of_it(digits, options):
    some = stream(digits, batch_size=50, **options)
    with pytest.raises(ValueError, match="one pass over all examples"):
        jaxrnn.training.evaluate_stream(new_state(digits), some)
    with pytest.raises(ValueError, match="one pass over all examples"):
        fit(new_state(digits), digits, key=KEY, batch_size=100, epochs=1, evals={"test": some})


@pytest.mark.program
def test_a_loss_that_is_not_finite_is_located(digits):
    model = RNNModel(hidden=8)
    state = create_train_state(KEY, model, optax.sgd(1e38), digits.inputs)
    with pytest.raises(jaxrnn.training.NonFiniteLossError) as of_split:
        fit(state, digits, key=KEY, batch_size=100, epochs=1)
    with pytest.raises(jaxrnn.training.NonFiniteLossError) as of_stream:
        fit(state, stream(digits, batch_size=100, key=KEY), epochs=1)
    assert of_stream.value.step == of_split.value.step > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size must be between 1 and the 500 examples"),
        ({"batch_size": 501}, "batch size must be between 1 and the 500 examples"),
        ({"batch_size": 50, "steps_per_epoch": 0}, "steps_per_epoch must be at least 1"),
        ({"batch_size": 64, "steps_per_epoch": 2}, "leave a batch of 52; use drop_remainder=True"),
        ({"batch_size": 50, "workers": -1}, "workers must be at least 0"),
    ],
)
def test_bad_streams(source, options, message):
    with pytest.raises(ValueError, match=message):
        stream(source, **options)


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        (None, {}, "needs a key"),
        (KEY, {"key": jax.random.key(6)}, "key differs from that of the stream"),
        (KEY, {"batch_size": 99}, "batch_size and drop_remainder differ"),
        (KEY, {"drop_remainder": True}, "batch_size and drop_remainder differ"),
    ],
)
def test_what_fit_says_of_a_stream_must_not_differ(source, digits, key, options, message):
    with pytest.raises(ValueError, match=message):
        fit(new_state(digits), stream(source, batch_size=64, key=key), epochs=1, **options)


def test_a_split_needs_key_and_batch_size(digits):
    with pytest.raises(ValueError, match="key and batch_size are needed"):
        fit(new_state(digits), digits, epochs=1)
