"""Arrays as people have them: taken where nothing is lost, otherwise one line says what to do."""

import copy
import logging
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import Split
from tests.shared import assert_identical

INPUTS = np.random.default_rng(0).random((6, 4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 0, 1, 2], np.int32)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)
PIXELS[0, 0, :2] = 0, 255


class Torch:
    """What a tensor of torch looks like; the real one is not a dependency."""

    def __init__(self, array):
        self._array, self._detached = array, False

    def detach(self):
        self._detached = True
        return self

    def __array__(self, dtype=None, copy=None):
        if not self._detached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return self._array


def test_labels_of_any_kind():
    kinds = ("i1", "u1", ">i2", "i8", "u8", "f2", ">f8", object)
    columns = LABELS[:, None], LABELS[:, None].astype(float), jnp.asarray(LABELS, float)[:, None]
    others = LABELS.tolist(), tuple(LABELS.tolist()), Torch(LABELS.astype(int)), jnp.asarray(LABELS)
    for labels in (*map(LABELS.astype, kinds), *columns, *others, np.repeat(LABELS, 2)[::2]):
        split = Split(INPUTS, labels)
        assert jnp.issubdtype(split.labels.dtype, jnp.integer)
        assert split.labels.dtype.isnative
        np.testing.assert_array_equal(split.labels, LABELS)


def test_inputs_of_any_kind():
    arrays = INPUTS.astype(">f4"), INPUTS.astype(object), Torch(INPUTS), jnp.asarray(INPUTS)
    for inputs in (INPUTS.tolist(), tuple(INPUTS.tolist()), list(INPUTS), *arrays):
        split = Split(inputs, LABELS)
        assert split.inputs.dtype.isnative
        np.testing.assert_allclose(split.inputs, INPUTS, rtol=1e-7)


@pytest.mark.parametrize("kind", [bool, "i1", ">i4", "u2", "i8"])
def test_whole_numbers_are_taken_as_they_are(kind):
    inputs = (INPUTS * 2).astype(kind)
    split = Split(inputs, LABELS > 0, targets=inputs[:, 0])
    assert (split.inputs.dtype, split.targets.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(split.inputs, inputs)
    np.testing.assert_array_equal(split.targets, inputs[:, 0])
    np.testing.assert_array_equal(split.labels, (LABELS > 0).astype(int))


def test_memory_maps_are_not_copied(tmp_path):
    np.save(tmp_path / "inputs.npy", PIXELS)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    assert Split(mapped, LABELS).inputs is mapped
    batches = jaxrnn.stream(Split(mapped, LABELS), batch_size=2)
    assert np.shares_memory(batches.source.inputs, mapped)
    np.testing.assert_array_equal(next(iter(batches))["inputs"], PIXELS[:2])


def test_pytree_of_anything():
    split = Split(INPUTS, LABELS, class_names=["a", "b", "c"])
    assert jax.tree.map(jnp.shape, split).inputs == INPUTS.shape
    doubled = jax.tree.map(lambda leaf: leaf * 2, split)
    assert doubled.class_names == ("a", "b", "c")
    assert_identical(jax.tree.map(np.asarray, jax.jit(lambda split: split)(split)), split)
    axes = jax.tree.map(lambda leaf: 0, split)
    sums = jax.vmap(lambda one: one.inputs.sum() + one.labels, in_axes=(axes,))(split)
    np.testing.assert_allclose(sums, INPUTS.sum((1, 2)) + LABELS, rtol=1e-6)
    assert_identical(pickle.loads(pickle.dumps(split)), split)
    assert_identical(copy.deepcopy(split), split)
    assert len(split.replace(labels=LABELS.tolist()).labels) == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["a"] * 6}, "labels must be numbers; got <U1; Split.from_arrays reads names"),
        ({"labels": [None] * 6}, "labels must be numbers"),
        ({"labels": np.ma.masked_equal(LABELS, 1)}, "labels must have no masked values; got"),
        ({"targets": np.ma.masked_less(np.arange(6.0), 2)}, "targets must have no masked values"),
        ({"inputs": np.zeros((6, 4), [("x", "f4")])}, "inputs must be numbers"),
        ({"labels": np.array([2**40] * 6)}, "labels of int64 do not fit in int32"),
        ({"lengths": np.array([2**40] * 6)}, "lengths of int64 do not fit in int32"),
        ({"inputs": np.full((6, 4, 3), 2**30 + 1)}, "inputs of int64 do not fit in float32"),
        ({"inputs": INPUTS.astype(complex)}, "inputs must be numbers; got complex128"),
        ({"inputs": [[[1.0]], [[1.0], [2.0]]]}, "Split.from_arrays pads sequences"),
        ({"inputs": np.array(["2026-01-01"] * 6, "M8[D]")}, "inputs must be numbers"),
    ],
)
def test_unconvertible_values(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        Split(**{"inputs": INPUTS, "labels": LABELS, **fields})
    assert "\n" not in str(caught.value)


def test_from_arrays_logs_its_interpretations(caplog):
    split = Split.from_arrays(INPUTS, LABELS, lengths=[4, 3, 2, 1, 4, 4])
    assert_identical(split, Split(INPUTS, LABELS, np.array([4, 3, 2, 1, 4, 4], np.int32)))
    assert not caplog.records  # there was none
    split = Split.from_arrays(np.full((6, 784), 255, np.uint8), ["b", "a", "b", "c", "a", "a"])
    assert split.inputs.shape == (6, 28, 28)
    assert (split.labels.tolist(), split.class_names) == ([1, 0, 1, 2, 0, 0], ("a", "b", "c"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "read as images of 28 rows; labels were read as names of 3 classes" in caplog.text


@pytest.mark.parametrize(
    ("inputs", "options", "shape", "channels"),
    [
        (PIXELS.reshape(6, 12), {}, (6, 12, 1), 1),
        (PIXELS.reshape(6, 12), {"rows": 3}, (6, 3, 4), 1),
        (PIXELS[..., None], {}, (6, 4, 3), 1),
        (np.zeros((6, 8, 9, 3), np.uint8), {}, (6, 8, 27), 3),
        (np.zeros((6, 3, 8, 9), np.uint8), {}, (6, 8, 27), 3),
        (np.zeros((6, 28, 28), np.uint8), {"rows": 784}, (6, 784, 1), 1),
    ],
)
def test_images(inputs, options, shape, channels):
    split = Split.from_arrays(inputs, LABELS, **options)
    assert (split.inputs.shape, split.channels) == (shape, channels)


@pytest.mark.parametrize("kind", ["i8", "f4", object])
def test_only_uint8_are_pixels(kind, caplog):
    for part in (slice(3), slice(3, 6)):  # with and without the extremes
        split = Split.from_arrays(PIXELS[part].astype(kind), LABELS[part])
        np.testing.assert_array_equal(split.inputs, PIXELS[part].astype(np.float32))
        scaled = Split.from_arrays(PIXELS[part].astype(kind), LABELS[part], scale=255)
        np.testing.assert_array_equal(scaled.inputs, PIXELS[part] / np.float32(255))
    assert "from 0 to 255 were not scaled; give scale=255 if they are pixels" in caplog.text


def test_pixels_of_another_range(caplog):
    sixteen = PIXELS // 16
    assert Split.from_arrays(sixteen, LABELS).inputs.dtype == np.uint8
    assert "uint8 inputs were read as pixels from 0 to 255, but the largest is 15" in caplog.text
    np.testing.assert_array_equal(
        Split.from_arrays(sixteen, LABELS, scale=15).inputs, sixteen / np.float32(15)
    )


def test_only_pixels_are_square_images(caplog):
    series = np.random.default_rng(0).normal(size=(6, 49))
    for inputs in (series, series.tolist(), list(series)):
        assert Split.from_arrays(inputs, LABELS).inputs.shape == (6, 49, 1)
    assert "rows=7 reads images" in caplog.text
    assert Split.from_arrays(np.zeros((6, 49), np.uint8), LABELS).inputs.shape == (6, 7, 7)


def test_one_hot_labels_with_as_many_classes_as_steps():
    one_hot = np.eye(4, dtype=int)[[0, 2, 1, 0, 1, 3]]
    with pytest.raises(ValueError, match=r"one-hot rows or .* each time step; give one_hot"):
        Split.from_arrays(INPUTS, one_hot)
    assert Split.from_arrays(INPUTS, one_hot, one_hot=True).labels.tolist() == [0, 2, 1, 0, 1, 3]
    assert Split.from_arrays(INPUTS, one_hot, one_hot=False).labels.tolist() == one_hot.tolist()
    assert Split.from_arrays(INPUTS, 1 - one_hot).labels.tolist() == (1 - one_hot).tolist()


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (np.eye(3)[LABELS], {}),
        (np.eye(3, dtype=bool)[LABELS], {}),
        (np.array(["x", "y", "z"])[LABELS], {"class_names": ["x", "y", "z"]}),
        (np.array(["x", "y", "z"], object)[LABELS], {}),
    ],
)
def test_labels_that_are_interpreted(labels, options, caplog):
    assert Split.from_arrays(INPUTS, labels, **options).labels.tolist() == LABELS.tolist()
    assert ("labels were" in caplog.text) == ("class_names" not in options)
    steps = np.tile(LABELS[:, None], 4)
    np.testing.assert_array_equal(Split.from_arrays(INPUTS, np.eye(3)[steps]).labels, steps)


def test_sequences_of_different_lengths(caplog):
    sequences = [INPUTS[row, :length] for row, length in enumerate([4, 1, 3, 2, 4, 4])]
    split = Split.from_arrays(sequences, LABELS)
    assert split.lengths.tolist() == [4, 1, 3, 2, 4, 4]
    assert split.inputs.shape == INPUTS.shape
    assert not split.inputs[1, 1:].any()
    assert "sequences of 1 to 4 steps were padded" in caplog.text
    mask = np.arange(4) < split.lengths[:, None]
    np.testing.assert_array_equal(
        Split.from_arrays(INPUTS, LABELS, mask=mask).lengths, split.lengths
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["a"] * 6, "class_names": ["b"]}, r"not among the class names: \['a'\]"),
        ({"labels": ["a", None, "b", "a", "b", "a"]}, "label 1 is None"),
        ({"labels": ["a", "b", float("nan"), "a", "b", "a"]}, "label 2 is nan"),
        ({"labels": np.array(["a", "b", float("nan")] * 2, object)}, "label 2 is nan"),
        ({"labels": [[0, 1, 2, None]] * 6}, "label 3 is None"),
        ({"class_names": ["a", "b", "a"]}, "class names must be distinct; got 'a' twice"),
        ({"labels": np.ones((6, 3))}, "neither indices nor one-hot"),
        ({"labels": LABELS + 1}, "labels must start at 0; got 1 to 3; subtract 1"),
        ({"mask": np.arange(4) > np.zeros((6, 1))}, "first time steps of each sequence only"),
        (
            {"labels": LABELS + 1, "class_names": "abc"},
            "between 0 and 2, for 3 class names; got 1 to 3",
        ),
        ({"mask": np.ones((6, 3))}, r"mask must be .* got shape \(6, 3\)"),
        ({"mask": np.ones((6, 4)), "lengths": np.ones(6)}, "mask or lengths, not both"),
        ({"mask": np.ones(6)}, r"mask must be \(N, time\), \(6, 4\); got shape \(6,\)"),
        ({"inputs": [np.zeros((1, 2)), np.zeros((2, 3))]}, "must have the same features"),
        ({"inputs": np.zeros((6, 12)), "rows": 5}, "cannot be divided into 5 equal rows"),
        (
            {"inputs": [np.zeros((n, 2)) for n in (1, 2)] * 3, "rows": 4},
            "sequences of equal length",
        ),
    ],
)
def test_uninterpretable_arrays(options, message):
    with pytest.raises(ValueError, match=message):
        Split.from_arrays(**{"inputs": INPUTS, "labels": LABELS, **options})
