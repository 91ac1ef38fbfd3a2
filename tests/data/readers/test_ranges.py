"""The range of pixels is decided once, by the training images, and is the same for every part."""

import numpy as np
import pytest

import jaxrnn
from tests.data.readers import store

DIGITS = np.random.default_rng(0).integers(0, 16, (20, 6, 5))
DIGITS.flat[0] = 15
LABELS = np.arange(20) % 2


def loaded(tmp_path, kind, train, test=DIGITS):
    splits = {"train": (train, LABELS[: len(train)]), "test": (test, LABELS[: len(test)])}
    name, places = store(tmp_path / "mine", kind, **splits)
    places["data_dir"] = tmp_path / "data"
    return [jaxrnn.Source(name, split=split, **places) for split in ("train", "test")]


@pytest.mark.parametrize("kind", ["npz", "idx", "folder"])
@pytest.mark.parametrize("most", [1, 15, 127])
def test_small_numbers_are_stretched_by_those_of_training(tmp_path, caplog, kind, most):
    images = DIGITS * most // 15
    train, test = loaded(tmp_path, kind, images, np.minimum(images, most // 2))
    order = np.argsort(LABELS, kind="stable") if kind == "folder" else range(20)
    expected = np.round(images * 255 / most)[order]
    np.testing.assert_array_equal(train.load().inputs, expected)
    expected = np.round(np.minimum(images, most // 2) * 255 / most)[order]
    np.testing.assert_array_equal(test.load().inputs, expected)
    assert train.pixel_max == test.pixel_max == most
    (line,) = [message for message in caplog.messages if "stretched" in message]
    assert f"0 to {most}" in line


@pytest.mark.parametrize("most", [128, 200, 255])
def test_large_numbers_are_kept(tmp_path, caplog, most):
    images = DIGITS * most // 15
    for source in loaded(tmp_path, "npz", images, images):
        np.testing.assert_array_equal(source.load().inputs, images)
        assert source.pixel_max == 255
    assert caplog.messages == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool])
def test_numbers_from_0_to_1(tmp_path, dtype):
    images = (DIGITS / 15).astype(dtype)
    train, test = loaded(tmp_path, "npz", images, images[:7] * dtype(1))
    np.testing.assert_array_equal(train.load().inputs, np.round(255 * images.astype(float)))
    np.testing.assert_array_equal(test.load().inputs, train.load().inputs[:7])
    assert train.pixel_max == 1


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32])
def test_whole_numbers_of_any_type(tmp_path, dtype):
    train, _ = loaded(tmp_path, "npz", DIGITS.astype(dtype), DIGITS.astype(dtype))
    np.testing.assert_array_equal(train.load().inputs, DIGITS * 17)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (DIGITS, DIGITS + 1, "test images .* from 1 to 16.* from 0 to 15, the max"),
        (DIGITS / 15, DIGITS, "test images .* from 0 to 15.* from 0 to 1, the max"),
        (DIGITS * 17, DIGITS / 15, "test images .* from 0 to 1.* whole numbers"),
        (DIGITS / 2, DIGITS, r"train images .* from 0 to 7\.5.* whole numbers"),
        (DIGITS / 7.5 - 1, DIGITS, "train images .* from -1 to 1"),
        (DIGITS * 1000, DIGITS, "train images .* from 0 to 15000"),
        (np.where(DIGITS == 3, np.nan, DIGITS / 15), DIGITS, "train images .* nan"),
    ],
)
def test_other_ranges_are_refused(tmp_path, train, test, message):
    with pytest.raises(ValueError, match=message) as caught:
        loaded(tmp_path, "npz", train, test)
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
