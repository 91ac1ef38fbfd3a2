"""Image files as people have them: IDX under any name, Keras's .npz, directories of images."""

import gzip
import struct

import chex
import numpy as np
import pytest
from PIL import Image

import jaxrnn
from jaxrnn.data.readers.files import (
    find_idx,
    find_images,
    read_idx_files,
    read_images,
    read_npz,
)

GENERATOR = np.random.default_rng(0)
PATTERN = "{split}-{kind}-idx{axes}-ubyte.gz"


def read(folder):
    """Return the images and labels of each split of a folder of IDX files, and the class names."""
    images = read_idx_files(find_idx(folder))
    return {split: next(pieces()) for split, pieces in images.splits.items()}, images.class_names


def idx(array, code):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    header = struct.pack(">4B", 0, 0, code, array.ndim) + sizes
    return header + array.astype({8: ">u1", 12: ">i4"}[code]).tobytes()


def arrays(size=(28, 28), classes=10, first=0):
    """Images and labels of both splits."""
    return {
        split: (
            GENERATOR.integers(0, 256, (count, *size)).astype(np.uint8),
            np.arange(count) % classes + first,
        )
        for split, count in (("train", 3 * classes), ("test", classes))
    }


def write(folder, pairs, pattern, compress=True, code=8):
    """Write IDX files; the pattern has the split, the kind and its axes."""
    folder.mkdir(exist_ok=True)
    for split, (images, labels) in pairs.items():
        if code == 12:  # QMNIST's: the class, and seven columns about the writer
            labels = np.stack([labels, *[labels + 7] * 7], 1)
        for kind, axes, content in (
            ("images", 3, idx(images, 8)),
            ("labels", labels.ndim, idx(labels, code)),
        ):
            path = folder / pattern.format(split=split, kind=kind, axes=axes)
            path.write_bytes(gzip.compress(content) if compress else content)
    return folder


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        (PATTERN, {}),
        (PATTERN, {"compress": False}),
        ("{split}-{kind}-idx{axes}-ubyte", {"compress": False}),
        ("{split}-{kind}.idx{axes}-ubyte", {"compress": False}),
        ("{split}_{kind}.idx{axes}.gz", {}),
        ("qmnist-{split}-{kind}-idx{axes}-int.gz", {"code": 12}),
    ],
)
def test_idx_files_of_any_naming_scheme(tmp_path, pattern, options):
    pairs = arrays()
    splits, class_names = read(write(tmp_path / "idx", pairs, pattern, **options))
    chex.assert_trees_all_equal({split: tuple(pair) for split, pair in splits.items()}, pairs)
    assert class_names == tuple("0123456789")


def test_t10k_is_the_test_split(tmp_path):
    folder = write(tmp_path / "idx", arrays(), PATTERN)
    for path in folder.glob("test-*"):
        path.rename(path.with_name(path.name.replace("test", "t10k")))
    assert len(read(folder)[0]["test"].labels) == 10


def test_emnist_is_transposed_and_its_labels_start_at_one(tmp_path):
    pairs = arrays(classes=26, first=1)
    pattern = "emnist-letters-{split}-{kind}-idx{axes}-ubyte.gz"
    splits, class_names = read(write(tmp_path / "idx", pairs, pattern))
    np.testing.assert_array_equal(splits["train"].images, pairs["train"][0].transpose(0, 2, 1))
    np.testing.assert_array_equal(splits["train"].labels, pairs["train"][1] - 1)
    assert class_names == tuple(map(str, range(1, 27)))


@pytest.mark.parametrize(("size", "classes"), [((5, 9), 3), ((40, 40), 300)])
def test_idx_files_are_loaded_and_streamed(tmp_path, size, classes):
    pairs = arrays(size, classes)
    code = 12 if classes > 256 else 8
    folder = write(tmp_path / "idx", pairs, "{split}-{kind}-idx{axes}.gz", code=code)
    places = {"archives": folder, "data_dir": tmp_path / "data"}
    images, labels = pairs["train"]
    split = jaxrnn.load("idx", split="train[1:]", **places)
    np.testing.assert_array_equal(split.inputs, images[1:])
    np.testing.assert_array_equal(split.labels, labels[1:])
    assert len(split.class_names) == classes
    source = jaxrnn.Source("idx", split="test", **places)
    np.testing.assert_array_equal(source.read([2, 0])["labels"], [2, 0])
    assert [path.name[:4] for path in (tmp_path / "data" / "jaxrnn").iterdir()] == ["idx-"]


@pytest.mark.parametrize("kind", ["idx", "npz", "images"])
def test_changed_files_are_read_again(tmp_path, monkeypatch, kind):
    first, second = GENERATOR.integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)
    archives = tmp_path / "idx" if kind == "idx" else None
    name = {"idx": "idx", "npz": str(tmp_path / "a.npz"), "images": str(tmp_path / "classes")}[kind]

    def store(images):
        if kind == "idx":
            write(tmp_path / "idx", {"train": (images, np.arange(3))}, PATTERN, compress=False)
        elif kind == "npz":
            np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(3))
        else:
            for label, image in enumerate(images):
                path = tmp_path / "classes" / str(label) / "a.bmp"  # of constant size
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)

    def load():
        places = {"data_dir": tmp_path / "data", "archives": archives}
        return jaxrnn.load(name, split="train", **places).inputs

    store(first)
    np.testing.assert_array_equal(load(), first)
    with monkeypatch.context() as unread:
        for reader in ("read_idx_files", "read_npz", "read_images"):
            unread.setattr(f"jaxrnn.data.readers.{reader}", lambda *arguments: 1 / 0)
        np.testing.assert_array_equal(load(), first)
    store(second)
    np.testing.assert_array_equal(load(), second)


def test_other_files_under_a_known_name_are_used_with_a_warning(tmp_path, caplog):
    pairs = arrays()
    folder = write(tmp_path / "idx", pairs, "{split}-{kind}-idx{axes}-ubyte.gz")
    for name, classes in (("mnist", "0"), ("fashion_mnist", "T-shirt/top"), ("kmnist", "o")):
        caplog.clear()
        split = jaxrnn.load(name, split="train", archives=folder, data_dir=tmp_path / "data")
        np.testing.assert_array_equal(split.inputs, pairs["train"][0])
        assert split.class_names[0] == classes
        assert f"the files in {folder} are not those published as {name}" in caplog.text
    assert len(jaxrnn.load("mnist", split="test[:7]").inputs) == 7


def test_idx_files_that_do_not_fit(tmp_path):
    folder = write(tmp_path / "several", arrays(), PATTERN)
    (folder / "emnist-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has several files of train images: emnist.*; keep one"):
        find_idx(folder)
    with pytest.raises(FileNotFoundError, match=r"lacks train-images-idx3-ubyte\.gz"):
        find_idx(tmp_path)
    pairs = arrays()
    pairs["test"] = pairs["test"][0], pairs["test"][1][:-1]
    with pytest.raises(ValueError, match=r"expected test images \(N, height, width\) uint8"):
        read(write(tmp_path / "lengths", pairs, PATTERN))
    with pytest.raises(ValueError, match="name 'idx' needs archives"):
        jaxrnn.load("idx", split="train")


@pytest.mark.parametrize(("channels", "order"), [((), "C"), ((3,), "F")])
def test_arrays_as_keras_stores_them(tmp_path, channels, order):
    pairs = arrays((8, 8, *channels), 4)
    stored = {}
    for split, (images, labels) in pairs.items():
        stored[f"x_{split}"] = np.asarray(images, order=order)
        stored[f"y_{split}"] = labels[:, None].astype(np.uint8)
    np.savez(tmp_path / "mine.npz", **stored)
    split = jaxrnn.load(str(tmp_path / "mine.npz"), split="train", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(split.inputs, pairs["train"][0].reshape(12, 8, -1))
    np.testing.assert_array_equal(split.labels, pairs["train"][1])
    assert split.channels == (3 if channels else 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x_test": np.zeros(3)}, "it lacks x_train, y_train"),
        ({"x_train": np.zeros((3, 4)), "y_train": np.zeros(3)}, r"expected train images \(N, h"),
        ({"x_train": np.zeros((3, 4, 4)), "y_train": np.full(3, -1)}, "class indices from 0; got"),
        ({"x_train": np.full((3, 4, 4), 0.5), "y_train": np.zeros(3)}, "float64"),
        ({"x_train": np.array([None]), "y_train": np.zeros(1)}, "cannot be read as Keras"),
        (b"nonsense", "cannot be read as Keras stores data sets"),
    ],
)
def test_arrays_that_are_no_data_set(tmp_path, content, message):
    path = tmp_path / "mine.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(ValueError, match=message) as caught:
        read_npz(path)
    assert "\n" not in str(caught.value)


def test_images_in_directories_by_class(tmp_path):
    images = GENERATOR.integers(0, 256, (4, 6, 5)).astype(np.uint8)
    paths = ("train/cat/b.png", "train/cat/a.png", "train/ox/x.png", "test/ox/y.png")
    for number, path in enumerate(paths):
        (tmp_path / "mine" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(tmp_path / "mine" / path)
    (tmp_path / "mine" / "train" / "cat" / "notes.txt").write_text("no image")
    places = {"data_dir": tmp_path / "data"}
    split = jaxrnn.load(str(tmp_path / "mine"), split="train", **places)
    np.testing.assert_array_equal(split.inputs, images[[1, 0, 2]])
    assert (split.labels.tolist(), split.class_names) == ([0, 0, 1], ("cat", "ox"))
    both = jaxrnn.load(str(tmp_path / "mine"), split="test+train[1:]", **places)
    np.testing.assert_array_equal(both.inputs, images[[3, 0, 2]])
    assert both.labels.tolist() == [1, 0, 1]
    assert jaxrnn.load(str(tmp_path / "mine/test"), split="all", **places).class_names == ("ox",)


def test_images_that_do_not_fit(tmp_path):
    image = GENERATOR.integers(0, 256, (6, 5)).astype(np.uint8)
    (tmp_path / "cat").mkdir()

    def refuse(message):
        with pytest.raises(ValueError, match=message):
            read_images(find_images(tmp_path), tmp_path)

    refuse("has no train images in directories named by class")
    Image.fromarray(image).save(tmp_path / "cat" / "a.png")
    Image.fromarray(image.repeat(2, 0)).save(tmp_path / "cat" / "b.png")
    refuse("differ in size")
    (tmp_path / "cat" / "b.png").write_bytes(b"nonsense")
    refuse(r"b\.png cannot be read as an image")
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "cat" / "b.png")
    refuse(r"its pixels are of mode I.*; expected 8 bits")
    Image.fromarray(np.stack([image] * 3, -1)).save(tmp_path / "cat" / "b.png")
    (pieces,) = read_images(find_images(tmp_path), tmp_path).splits.values()
    np.testing.assert_array_equal(
        next(pieces()).images, np.stack([[image] * 3] * 2).transpose(0, 2, 3, 1)
    )
