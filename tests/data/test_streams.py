"""Streams give the batches that a split in memory gives, and continue where they stopped."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn import RNNModel, Source, TrainerConfig, create_train_state, fit, stream

KEY = jax.random.key(5)
WARP = jaxrnn.WarpConfig(shift=1.0).build()


@pytest.fixture(scope="module")
def source():
    return Source("mnist", split="train[:500]")


@pytest.fixture(scope="module")
def new(digits):
    optimizer = jaxrnn.Adam(learning_rate=1e-2).build()
    return create_train_state(jax.random.key(1), RNNModel(hidden=8), optimizer, digits.inputs)


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_batches_are_those_of_the_split(source, digits, drop_remainder):
    batches = stream(source, batch_size=64, key=KEY, drop_remainder=drop_remainder)
    assert len(batches) == 8 - drop_remainder
    iterator = iter(batches)
    for turn in (1, 2):
        key = jax.random.fold_in(KEY, turn)
        in_memory = jaxrnn.batches(digits, key, batch_size=64, drop_remainder=drop_remainder)
        for expected in in_memory:
            chex.assert_trees_all_equal(next(iterator), expected)


def test_without_a_key_one_pass_in_file_order(source, digits):
    labels = [batch["labels"] for batch in stream(source, batch_size=150)]
    assert [len(batch) for batch in labels] == [150, 150, 150, 50]
    np.testing.assert_array_equal(np.concatenate(labels), digits.labels)


@pytest.mark.program
@pytest.mark.parametrize("workers", [0, 1])
def test_iterator_continues_with_the_next_batch(source, workers):
    batches = stream(source, batch_size=64, key=KEY, workers=workers)
    with contextlib.closing(iter(batches)) as iterator:
        before = list(itertools.islice(iterator, 11))
        position = json.loads(json.dumps(iterator.get_state()))
        after = list(itertools.islice(iterator, 3))
    with contextlib.closing(iter(batches)) as other:
        other.set_state(position)
        chex.assert_trees_all_equal(list(itertools.islice(other, 3)), after)
    reference = itertools.islice(stream(source, batch_size=64, key=KEY), 14)
    chex.assert_trees_all_equal([*before, *after], list(reference))


def take_block(batch, steps, whole):
    return {**batch, "steps": steps, "whole": whole}


def test_epochs_of_some_steps_continue_through_the_passes(source):
    """Three steps an epoch, seven a pass: blocks hold what the iterator gives."""
    batches = stream(source, batch_size=64, key=KEY, drop_remainder=True, steps_per_epoch=3)
    assert (len(batches), batches.examples_per_epoch) == (3, 192)
    iterator = iter(batches)
    with batches.blocks(take_block) as blocks:
        for block in itertools.islice(blocks, 4 * len(batches.block_sizes)):
            expected = list(itertools.islice(iterator, block["steps"]))
            for name in ("inputs", "labels"):
                joined = np.concatenate([batch[name] for batch in expected])
                np.testing.assert_array_equal(block[name], joined)
    with batches.blocks(take_block, epoch=5) as blocks:
        np.testing.assert_array_equal(next(blocks)["labels"][:64], next(iterator)["labels"])


def test_process_reads_its_part_of_each_batch(source, digits):
    """Examples stand by device, then by step; the short last batch is read by all."""
    batches = stream(source, batch_size=64, key=KEY)
    with batches.blocks(take_block, own=slice(32, 64), devices=2) as blocks:
        part, rest = itertools.islice(blocks, 2)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(KEY, 1), 500))
    own = order[:448].reshape(7, 64)[:, 32:].reshape(7, 2, 16).swapaxes(0, 1).ravel()
    for block, places, steps in ((part, own, 7), (rest, order[448:], 1)):
        assert (block["steps"], block["whole"]) == (steps, steps == 7)
        np.testing.assert_array_equal(block["places"], places)
        np.testing.assert_array_equal(block["inputs"], digits.inputs[places])


@pytest.mark.program
@pytest.mark.parametrize(
    ("size", "devices", "options", "augment"),
    [  # with a short last batch, and with one that is left out
        (63, 3, {"train_curve": "last_batch"}, WARP),
        (64, 2, {"drop_remainder": True}, None),
    ],
)
def test_fit_on_a_stream_is_bit_identical(source, digits, new, size, devices, options, augment):
    trainer = TrainerConfig(epochs=2, batch_size=size, **options)
    common = {"augment": augment, "devices": devices}
    test = jaxrnn.load("mnist", split="test[:130]")
    state, history = fit(new, digits, trainer, key=KEY, evals={"test": test}, **common)
    order = {"batch_size": size, "drop_remainder": trainer.drop_remainder}
    streamed = stream(source, key=KEY, **order)
    test = stream(Source("mnist", split="test[:130]"), batch_size=40)
    other, curves = fit(new, streamed, trainer, evals={"test": test}, **common)
    chex.assert_trees_all_equal(other, state)
    for row, expected in zip(curves, history, strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**expected, "seconds": 0}, rel=1e-5)


def test_memory_does_not_hold_all_blocks():
    """However slow training is, reading stays a few blocks ahead."""
    read = []

    class Counting:
        def __len__(self):
            return 100_000

        def read(self, indices):
            read.append(len(indices))
            return {"inputs": np.zeros((len(indices), 28, 28), np.uint8)}

    with stream(Counting(), batch_size=100, key=KEY).blocks(take_block) as blocks:
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
def test_other_processes_read_the_same(source, new):
    by_thread, by_process = (
        fit(new, stream(source, batch_size=64, key=KEY, workers=workers), TrainerConfig(epochs=2))
        for workers in (0, 2)
    )
    chex.assert_trees_all_equal(by_process[0], by_thread[0])


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
def test_reader_ends_with_its_parent_and_not_before(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    done = subprocess.run(
        [sys.executable, tmp_path / "parent.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    reader = int(done.stdout)
    with contextlib.suppress(ProcessLookupError):
        for _ in range(300):
            os.kill(reader, 0)
            time.sleep(0.1)
        os.kill(reader, signal.SIGKILL)
        raise AssertionError("the reader was still there")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size must be between 1 and the 500 examples"),
        ({"batch_size": 501}, "batch size must be between 1 and the 500 examples"),
        ({"batch_size": 64, "steps_per_epoch": 2}, "leave a batch of 52; use drop_remainder \\(--"),
    ],
)
def test_bad_streams(source, options, message):
    with pytest.raises(ValueError, match=message):
        stream(source, **options)
