"""Splits: what they may hold, and the order of batches."""

import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn.data.batches import check_values, epoch_indices, prepare
from jaxrnn.data.splits import take


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(499, np.int32)}, r"got inputs \(500, 28, 28\), labels \(499,\)"),
        ({"labels": np.zeros((500, 27), np.int32)}, r"labels \(500, 27\); Split.from_arrays reads"),
        ({"labels": np.full(500, 0.5)}, "labels must be integers; real numbers are targets; got f"),
        ({"inputs": None}, r"got labels \(500,\)"),
        ({"inputs": np.zeros((500, 28), np.float32)}, r"inputs \(N, time\) must be integer"),
        ({"inputs": np.zeros((500, 28, 28, 1), np.uint8)}, r"got inputs \(500, 28, 28, 1\), la"),
        ({"lengths": np.zeros(5, np.int32)}, r"lengths \(5,\)"),
        ({"lengths": np.ones((500, 28), bool)}, r"lengths \(500, 28\)"),
        ({"lengths": np.full(500, 0.5)}, "lengths must be integers; got float"),
        ({"targets": np.zeros((499, 1))}, r"targets \(499, 1\)"),
        ({"targets": np.zeros((500, 27, 1))}, r"targets \(500, 27, 1\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(digits, change, message):
    with pytest.raises(ValueError, match=message):
        digits.replace(**change)


def test_batches_that_do_not_fit_are_refused(state, digits):
    labels = digits.labels[:5]
    for batch, message in (
        ({"inputs": np.zeros((5, 28, 28), np.int32), "labels": labels}, "must be uint8 pixels or"),
        ({"inputs": digits.inputs[:4], "labels": labels}, r"got inputs \(4, 28, 28\), labels \(5,"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxrnn.train_step(state, batch)


def test_splits_are_not_checked_inside_transformations(digits):
    def double(split):
        return split.replace(inputs=split.inputs * 2)

    doubled = jax.vmap(double)(digits.replace(inputs=digits.inputs / np.float32(255)))
    assert doubled.inputs.shape == digits.inputs.shape
    shapes = jax.eval_shape(lambda: digits)
    assert shapes.replace(inputs=shapes.labels).inputs.shape == (500,)


def test_pixels_are_scaled_and_padding_is_zero():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    scaled = prepare({"inputs": pixels})["inputs"]
    np.testing.assert_allclose(scaled, pixels / 255, rtol=1e-7)
    batch = {"inputs": pixels, "labels": pixels[..., 0], "lengths": np.array([3])}
    padded = prepare(batch)
    np.testing.assert_array_equal(padded["inputs"][0, 3:], 0)
    np.testing.assert_array_equal(padded["labels"][0], [0, 1, 2, *[0] * 253])
    long = prepare({"inputs": np.ones((1, 300, 1)), "lengths": np.array([50], np.uint8)})
    assert long["inputs"].sum() == 50
    floats = np.full((1, 2, 1), 3.0, np.float32)
    np.testing.assert_array_equal(prepare({"inputs": floats})["inputs"], floats)


@pytest.mark.parametrize(("size", "batch_size"), [(100, 30), (100, 50), (100, 100), (7, 1)])
def test_epoch_takes_each_example_once(size, batch_size):
    key = jax.random.key(3)
    whole, rest = epoch_indices(key, size, batch_size=batch_size)
    assert whole.shape == (size // batch_size, batch_size)
    assert sorted([*whole.ravel().tolist(), *rest.tolist()]) == list(range(size))
    dropped, none = epoch_indices(key, size, batch_size=batch_size, drop_remainder=True)
    np.testing.assert_array_equal(dropped, whole)
    assert none.shape == (0,)


def test_order_follows_the_key(digits):
    def labels(seed):
        batches = jaxrnn.batches(digits, jax.random.key(seed), batch_size=64)
        return np.concatenate([batch["labels"] for batch in batches])

    np.testing.assert_array_equal(labels(0), labels(0))
    for other in (labels(1), digits.labels):
        assert (labels(0) != other).any()
        assert sorted(labels(0)) == sorted(other)


def test_take_keeps_examples_together(digits):
    lengths = np.arange(500, dtype=np.int32)
    batch = take(digits.replace(lengths=lengths), np.array([7, 3]))
    assert batch["labels"].tolist() == [digits.labels[7], digits.labels[3]]
    assert batch["lengths"].tolist() == [7, 3]
    np.testing.assert_array_equal(batch["inputs"][1], digits.inputs[3])
    assert "lengths" not in take(digits, np.array([0]))


@pytest.mark.parametrize("batch_size", [0, -1, 501])
def test_bad_batch_size(digits, batch_size):
    with pytest.raises(ValueError, match=f"between 1 and the 500 examples.*got {batch_size}"):
        next(jaxrnn.batches(digits, jax.random.key(0), batch_size=batch_size))


def test_labels_beyond_the_lengths_are_not_checked():
    inputs, lengths = np.zeros((2, 3, 1), np.float32), np.array([1, 3])
    labels = np.array([[1, -1, -1], [0, 1, 1]])
    check_values(jaxrnn.Split(inputs, labels, lengths), classes=2)
    with pytest.raises(ValueError, match=r"labels must be between 0 and 1.*got -1 to 1"):
        check_values(jaxrnn.Split(inputs, labels), classes=2)
    with pytest.raises(ValueError, match="lengths must be between 0 and the 3 time steps"):
        check_values(jaxrnn.Split(inputs, labels, lengths + 1), classes=2)


def test_missing_and_infinite_numbers_are_located():
    inputs, targets = np.zeros((5, 3, 2), np.float32), np.ones((5, 3, 1), np.float32)
    missing, infinite = inputs.copy(), targets.copy()
    missing[4, 2, 1], infinite[3, 0, 0] = np.nan, np.inf
    for fields, found in (
        (
            {"inputs": missing},
            r"inputs must be finite; got nan in example 4, time step 2, column 1",
        ),
        ({"targets": infinite}, r"targets must be finite; got inf in example 3, time step 0, col"),
        ({"targets": infinite[:, 0]}, r"targets must be finite; got inf in example 3, column 0"),
    ):
        split = jaxrnn.Split(**{"inputs": inputs, "targets": targets, **fields})
        with pytest.raises(ValueError, match=found):
            check_values(split, 1)
    padded = {"inputs": missing, "targets": targets, "lengths": np.array([3, 3, 3, 3, 2])}
    check_values(jaxrnn.Split(**padded), 1)
    with pytest.raises(ValueError, match="lengths are all 0"):
        check_values(jaxrnn.Split(inputs, targets=targets, lengths=np.zeros(5, int)), 1)
