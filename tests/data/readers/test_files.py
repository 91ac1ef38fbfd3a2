"""Image files as people have them: IDX under any name, and Keras's .npz."""

import gzip

import numpy as np
import pytest

import jaxrnn
from jaxrnn.data.readers.files import find_idx, read_idx_files
from tests.data.readers import idx, store

GENERATOR = np.random.default_rng(0)
PATTERN = "{split}-{kind}-idx{axes}-ubyte.gz"


def arrays(size=(6, 5), classes=10, first=0):
    """Images and labels of both splits."""
    return {
        split: (
            GENERATOR.integers(0, 256, (count, *size)).astype(np.uint8),
            (np.arange(count) % classes + first).astype(np.uint8 if classes < 256 else np.int32),
        )
        for split, count in (("train", 3 * classes), ("test", classes))
    }


def write(folder, pairs, pattern=PATTERN):
    """Write IDX files; the pattern has the split, the kind and its axes."""
    folder.mkdir(exist_ok=True)
    for split, pair in pairs.items():
        for kind, array in zip(("images", "labels"), pair, strict=True):
            path = folder / pattern.format(split=split, kind=kind, axes=array.ndim)
            path.write_bytes(gzip.compress(idx(array)) if path.suffix == ".gz" else idx(array))
    return folder


def read(folder):
    """Read the arrays of each split of a folder of IDX files, and the names of the classes."""
    images = read_idx_files(find_idx(folder))
    return {split: arrays for split, (arrays,) in images.splits.items()}, images.class_names


@pytest.mark.parametrize(
    "pattern",
    [
        PATTERN,
        "{split}-{kind}-idx{axes}-ubyte",
        "{split}-{kind}.idx{axes}-ubyte",
        "{split}_{kind}.idx{axes}.gz",
        "qmnist-{split}-{kind}-idx{axes}-int.gz",
    ],
)
def test_idx_files_of_any_naming_scheme(tmp_path, pattern):
    pairs = stored = arrays()
    if "qmnist" in pattern:  # labels are the class, and seven columns about the writer
        stored = {
            split: (ims, np.stack([ls, *[ls + 7] * 7], 1)) for split, (ims, ls) in pairs.items()
        }
    splits, class_names = read(write(tmp_path / "idx", stored, pattern))
    for split, pair in pairs.items():
        for found, expected in zip(splits[split], pair, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert class_names == tuple("0123456789")


def test_emnist_is_transposed_and_its_labels_start_at_one(tmp_path):
    pairs = arrays(classes=26, first=1)
    folder = write(tmp_path / "idx", pairs, "emnist-letters-" + PATTERN)
    for path in folder.glob("*test*"):
        path.rename(path.with_name(path.name.replace("test", "t10k")))
    splits, class_names = read(folder)
    assert len(splits["test"].labels) == 26
    np.testing.assert_array_equal(splits["train"].images, pairs["train"][0].transpose(0, 2, 1))
    np.testing.assert_array_equal(splits["train"].labels, pairs["train"][1] - 1)
    assert class_names == tuple(map(str, range(1, 27)))


def test_idx_files_are_loaded_and_streamed(tmp_path):
    pairs = arrays((40, 40), 300)
    places = {"archives": write(tmp_path / "idx", pairs), "data_dir": tmp_path / "data"}
    images, labels = pairs["train"]
    split = jaxrnn.load("idx", split="train[1:]", **places)
    np.testing.assert_array_equal(split.inputs, images[1:])
    np.testing.assert_array_equal(split.labels, labels[1:])
    assert len(split.class_names) == 300
    source = jaxrnn.Source("idx", split="test", **places)
    np.testing.assert_array_equal(source.read([2, 0])["labels"], [2, 0])
    with pytest.raises(ValueError, match="name 'idx' requires archives"):
        jaxrnn.load("idx", split="train")


@pytest.mark.parametrize("kind", ["idx", "npz", "images"])
def test_changed_files_are_read_again(tmp_path, monkeypatch, kind):
    """Though they have the same names and sizes."""
    first, second = GENERATOR.integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)

    def check(images):
        loaded = jaxrnn.load(name, split="train", data_dir=tmp_path / "data", **places)
        np.testing.assert_array_equal(loaded.inputs, images)

    name, places = store(tmp_path / "mine", kind, train=(first, np.arange(3)))
    check(first)
    with monkeypatch.context() as unread:
        for reader in ("read_idx_files", "read_npz", "read_images"):
            unread.setattr(f"jaxrnn.data.readers.{reader}", lambda *arguments: 1 / 0)
        check(first)
    store(tmp_path / "mine", kind, train=(second, np.arange(3)))
    check(second)


def test_idx_files_that_do_not_fit(tmp_path):
    folder = write(tmp_path / "several", arrays())
    (folder / "emnist-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has several files of train images: emnist.*; keep one"):
        find_idx(folder)
    with pytest.raises(FileNotFoundError, match=r"lacks train-images-idx3-ubyte\.gz"):
        find_idx(tmp_path)
    pairs = arrays()
    pairs["test"] = pairs["test"][0], pairs["test"][1][:-1]
    with pytest.raises(ValueError, match=r"expected test images \(N, height, width"):
        read(write(tmp_path / "lengths", pairs))


@pytest.mark.parametrize(("channels", "order"), [((), "C"), ((3,), "F")])
def test_arrays_as_keras_stores_them(tmp_path, channels, order):
    pairs = arrays((8, 8, *channels), 4)
    stored = {f"x_{split}": np.asarray(pair[0], order=order) for split, pair in pairs.items()}
    stored |= {f"y_{split}": pair[1][:, None] for split, pair in pairs.items()}
    np.savez(tmp_path / "mine.npz", **stored)
    split = jaxrnn.load(str(tmp_path / "mine.npz"), split="train", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(split.inputs, pairs["train"][0].reshape(12, 8, -1))
    np.testing.assert_array_equal(split.labels, pairs["train"][1])
    assert split.channels == (3 if channels else 1)
