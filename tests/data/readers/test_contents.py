"""Image files as people have them: IDX under any name, Keras's .npz, directories of images."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

import jaxrnn
from jaxrnn.data.readers.contents import read_idx_folder, read_image_folder, read_npz

GENERATOR = np.random.default_rng(0)


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
    folder.mkdir()
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
        ("{split}-{kind}-idx{axes}-ubyte.gz", {}),
        ("{split}-{kind}-idx{axes}-ubyte.gz", {"compress": False}),
        ("{split}-{kind}-idx{axes}-ubyte", {"compress": False}),
        ("{split}-{kind}.idx{axes}-ubyte", {"compress": False}),
        ("{split}_{kind}.idx{axes}.gz", {}),
        ("qmnist-{split}-{kind}-idx{axes}-int.gz", {"code": 12}),
    ],
)
def test_names_that_people_have(tmp_path, pattern, options):
    pairs = arrays()
    contents = read_idx_folder(write(tmp_path / "idx", pairs, pattern, **options))
    for split, (images, labels) in pairs.items():
        np.testing.assert_array_equal(contents.splits[split][0], images)
        np.testing.assert_array_equal(contents.splits[split][1], labels)
    assert contents.class_names == tuple("0123456789")


def test_the_test_files_of_mnist_s_authors(tmp_path):
    folder = write(tmp_path / "idx", arrays(), "{split}-{kind}-idx{axes}-ubyte.gz")
    for path in folder.glob("test-*"):
        path.rename(path.with_name(path.name.replace("test", "t10k")))
    assert len(read_idx_folder(folder).splits["test"][1]) == 10


def test_emnist_is_turned_and_counted_from_one(tmp_path):
    pairs = arrays(classes=26, first=1)
    pattern = "emnist-letters-{split}-{kind}-idx{axes}-ubyte.gz"
    contents = read_idx_folder(write(tmp_path / "idx", pairs, pattern))
    images, labels = contents.splits["train"]
    np.testing.assert_array_equal(images, pairs["train"][0].transpose(0, 2, 1))
    np.testing.assert_array_equal(labels, pairs["train"][1] - 1)
    assert contents.class_names == tuple(map(str, range(1, 27)))


@pytest.mark.parametrize(("size", "classes"), [((5, 9), 3), ((40, 40), 300)])
def test_any_size_and_number_of_classes_goes_the_usual_way(tmp_path, size, classes):
    """Prepared, split by tfds's strings, and read from disk like any other dataset."""
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
    # Other files at the same place are other data.
    (next(folder.glob("train-images*"))).write_bytes(gzip.compress(idx(images[::-1], 8)))
    np.testing.assert_array_equal(jaxrnn.load("idx", split="train", **places).inputs, images[::-1])


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


def test_files_that_do_not_fit(tmp_path):
    pattern = "{split}-{kind}-idx{axes}-ubyte.gz"
    folder = write(tmp_path / "several", arrays(), pattern)
    (folder / "emnist-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has several files of train images: emnist.*; keep one"):
        read_idx_folder(folder)
    with pytest.raises(FileNotFoundError, match=r"lacks train-images-idx3-ubyte\.gz"):
        read_idx_folder(tmp_path)
    pairs = arrays()
    pairs["test"] = pairs["test"][0], pairs["test"][1][:-1]
    with pytest.raises(ValueError, match=r"expected test images \(N, height, width\) uint8"):
        read_idx_folder(write(tmp_path / "lengths", pairs, pattern))
    pairs = arrays() | {"test": arrays(size=(5, 5))["test"]}
    with pytest.raises(ValueError, match="training and test images differ in size"):
        read_idx_folder(write(tmp_path / "sizes", pairs, pattern))
    with pytest.raises(ValueError, match="name 'idx' needs archives"):
        jaxrnn.load("idx", split="train")


@pytest.mark.parametrize("channels", [(), (3,)])
def test_arrays_as_keras_stores_them(tmp_path, channels):
    pairs = arrays((8, 8, *channels), 4)
    stored = {}
    for split, (images, labels) in pairs.items():
        stored |= {f"x_{split}": images, f"y_{split}": labels[:, None].astype(np.uint8)}
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
        ({"x_train": np.zeros((3, 4, 4)), "y_train": np.full(3, -1)}, "at least one class index"),
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
    split = jaxrnn.load(str(tmp_path / "mine"), split="train", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(split.inputs, images[[1, 0, 2]])
    assert (split.labels.tolist(), split.class_names) == ([0, 0, 1], ("cat", "ox"))
    assert read_image_folder(tmp_path / "mine" / "test").splits["train"][1].tolist() == [0]

    Image.fromarray(images[0].repeat(2, 0)).save(tmp_path / "mine" / "train" / "ox" / "large.png")
    with pytest.raises(ValueError, match="differ in size"):
        read_image_folder(tmp_path / "mine")
    (tmp_path / "mine" / "train" / "ox" / "large.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"large\.png cannot be read as an image"):
        read_image_folder(tmp_path / "mine")
    deep = Image.fromarray(images[0].astype(np.uint16) * 257)
    deep.save(tmp_path / "mine" / "train" / "ox" / "large.png")
    with pytest.raises(ValueError, match=r"its pixels are of mode I.*; expected 8 bits"):
        read_image_folder(tmp_path / "mine")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no images in directories named by class"):
        read_image_folder(tmp_path / "empty")
