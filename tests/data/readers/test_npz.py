"""Damaged and renamed ``.npz`` files, and labels that are names."""

import io
import re

import numpy as np
import pytest

import jaxrnn
from jaxrnn.data.readers.files import read_npz

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (20, 12, 12), np.uint8)
WORDS = np.array(["dog", "cat"] * 10)


def stored(save=np.savez, **changed):
    """The content of a dataset, as Keras stores it."""
    arrays = {"x_train": IMAGES, "y_train": np.arange(20) % 2}
    content = io.BytesIO()
    arrays |= {"x_test": IMAGES, "y_test": arrays["y_train"], **changed}
    save(content, **{name: array for name, array in arrays.items() if array is not None})
    return content.getvalue()


def array():
    content = io.BytesIO()
    np.save(content, IMAGES)
    return content.getvalue()


def refused(path):
    """What is wrong with a file, in one line that names it; None if nothing is."""
    try:
        read_npz(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return str(error)
    return None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_give_one_line(tmp_path, save):
    whole, messages = np.frombuffer(stored(save, x_train=IMAGES // 64), np.uint8), set()
    for place in np.linspace(0, len(whole) - 8, 80).astype(int):
        damaged = whole.copy()
        damaged[place : place + 8] ^= 255
        (tmp_path / "damaged.npz").write_bytes(damaged.tobytes())
        messages.add(refused(tmp_path / "damaged.npz"))
        (tmp_path / "cut.npz").write_bytes(whole[:place].tobytes())
        assert refused(tmp_path / "cut.npz")
    assert len(messages) > 2


@pytest.mark.parametrize("content", [array(), b"", b"PK\3\4", b"\x1f\x8b\x08\0", b"a,b\n1,2\n"])
def test_other_files_by_that_name(tmp_path, content):
    (tmp_path / "renamed.npz").write_bytes(content)
    assert "is not a dataset as Keras stores it" in refused(tmp_path / "renamed.npz")


def test_channels_may_come_first(tmp_path):
    images = GENERATOR.integers(0, 256, (20, 12, 15, 3), np.uint8)
    first = np.moveaxis(images, 3, 1)
    (tmp_path / "first.npz").write_bytes(stored(x_train=first, x_test=first))
    split = jaxrnn.load(str(tmp_path / "first.npz"), split="train", data_dir=tmp_path)
    np.testing.assert_array_equal(split.inputs, images.reshape(20, 12, 45))
    assert split.channels == 3


@pytest.mark.parametrize("words", [WORDS, WORDS.astype("S3")])
def test_labels_may_be_names(tmp_path, words):
    (tmp_path / "words.npz").write_bytes(stored(y_train=words, y_test=words[:1].repeat(20)))
    name, data_dir = str(tmp_path / "words.npz"), tmp_path / "data"
    train, test = (jaxrnn.load(name, split=s, data_dir=data_dir) for s in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.labels.tolist() == [1, 0] * 10
    assert test.labels.tolist() == [1] * 20


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": None, "y_train": None}, "it lacks x_train, y_train"),
        ({"x_train": np.zeros((20, 4))}, r"expected train images \(N, h"),
        ({"x_train": np.full((20, 4, 4), 1.5)}, "float64"),
        ({"x_train": np.array([None] * 20)}, "is not a dataset as Keras"),
        ({"y_train": np.full(20, -1)}, "int32 from -1 to 0"),
        ({"y_train": WORDS, "y_test": np.array(["cat", "ox"] * 10)}, r"class names: \['ox'\]"),
        ({"y_train": np.linspace(0, 1, 20)}, "class names or indices from 0"),
        ({"y_train": np.full(20, np.nan)}, "class names or indices from 0"),
        ({"y_train": np.arange(20).astype("M8[D]")}, "must be numbers"),
        ({"y_train": WORDS[:7], "y_test": WORDS}, r"labels \(N,\)"),
        ({"y_train": WORDS}, "test"),
    ],
)
def test_arrays_that_can_not_be_read_name_the_file(tmp_path, changed, message):
    (tmp_path / "mine.npz").write_bytes(stored(**changed))
    assert re.search(message, refused(tmp_path / "mine.npz"))


def test_endings_in_capitals(tmp_path, monkeypatch):
    (tmp_path / "DATA.NPZ").write_bytes(stored())
    monkeypatch.chdir(tmp_path)
    assert len(jaxrnn.load("DATA.NPZ", split="train", data_dir=tmp_path / "data")) == 20


def test_as_many_classes_as_a_byte_holds(tmp_path):
    labels = np.arange(256, dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=np.repeat(IMAGES[:1], 256, 0), y_train=labels)
    assert read_npz(tmp_path / "mine.npz").class_names == tuple(map(str, range(256)))
