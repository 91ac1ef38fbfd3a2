"""Loading by name and split string, and images read as sequences."""

import os
import pickle
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

import jaxrnn
from jaxrnn.data import readers
from jaxrnn.data.images import default_dirs
from jaxrnn.data.readers.builders import find_parts


def test_protocol_splits_meet_without_overlap():
    whole = jaxrnn.load(split="train")
    for names in (("train[:5000]", "train[5000:]"), ("train[:48000]", "train[48000:]"),
                  ("train[:80%]", "train[80%:]")):  # fmt: skip
        parts = [jaxrnn.load(split=name) for name in names]
        np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), whole.labels)
        np.testing.assert_array_equal(np.concatenate([p.inputs for p in parts]), whole.inputs)
    assert len(parts[0]) == 48_000


def test_dtypes_and_names(digits):
    assert (digits.inputs.dtype, digits.labels.dtype) == (np.uint8, np.int32)
    assert digits.class_names == tuple("0123456789")
    assert digits.inputs.flags.writeable


def test_sources_are_pickled(digits):
    source = pickle.loads(pickle.dumps(jaxrnn.Source("mnist", split="train[7:500]", rows=14)))
    assert (len(source), source.channels, source.class_names) == (493, 1, digits.class_names)
    batch = source.read(np.array([3, 0, 3]))
    np.testing.assert_array_equal(batch["labels"], digits.labels[[10, 7, 10]])
    np.testing.assert_array_equal(batch["inputs"].reshape(3, 28, 28), digits.inputs[[10, 7, 10]])
    with pytest.raises(IndexError):
        source.read([493])


def test_rows(digits):
    pixels = jaxrnn.load(split="train[:500]", rows=784)
    assert pixels.inputs.shape == (500, 784, 1)
    np.testing.assert_array_equal(pixels.inputs.reshape(digits.inputs.shape), digits.inputs)
    for rows in (0, -1, 3):
        with pytest.raises(ValueError, match=f"cannot be divided into {rows} equal rows"):
            jaxrnn.load(split="train[:5]", rows=rows)


def test_permutation_is_fixed_and_shuffles_pixels(digits):
    shuffled = jaxrnn.load("MNIST", split="train[:500]", rows=784, permute=True)
    assert shuffled.inputs.shape == (500, 784, 1)
    order = np.random.RandomState(0).permutation(784)
    np.testing.assert_array_equal(
        shuffled.inputs[:, :, 0], digits.inputs.reshape(500, -1)[:, order]
    )


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("mnst", "train", "there is no dataset 'mnst'; did you mean mnist"),
        ("qqqqqqqq", "train", "there is no dataset 'qqqqqqqq'; try mnist"),
        ("", "train", "'' could not be prepared in "),
        ("mnist", "trian", "split 'trian' of 'mnist': Unknown split 'trian'. Should be one of"),
        ("mnist", "train[", "split 'train[' of 'mnist': "),
        ("mnist", "train[:70000]", "split 'train[:70000]' of 'mnist': "),
        ("mnist", "train[5:3]", "split 'train[5:3]' of 'mnist' has no examples"),
        ("mnist", "all[:5]", "split 'all[:5]' of 'mnist': "),
    ],
)
def test_bad_names_and_splits(name, split, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        jaxrnn.load(name, split=split)
    assert "\n" not in str(caught.value)


EDGES = st.sampled_from(["", "-7", "30%", "1_0", "+3"]) | st.integers(0, 60).map(str)


@given(st.builds("{}[{}:{}]".format, st.sampled_from(["train", "test", "all"]), EDGES, EDGES))
def test_split_strings_mean_what_they_mean_in_tfds(split):
    sizes, found = {"train": 50, "test": 20}, []
    infos = {part: tfds.core.SplitInfo(part, [size], 0) for part, size in sizes.items()}
    for find, splits in ((readers._find_parts, sizes), (find_parts, infos)):
        try:
            parts = find("mnist", split, splits)
            found.append([(part, range(sizes[part])[rows]) for part, rows in parts])
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_archives_are_for_the_family_only(tmp_path):
    with pytest.raises(ValueError, match="archives are read for idx, mnist, fashion_mnist, kmnist"):
        jaxrnn.load("cifar10", split="train", archives=tmp_path)


def test_unwritable_data_dir(tmp_path):
    (tmp_path / "file").write_text("")
    for data_dir in (tmp_path / "file" / "data", "/proc/data"):
        with pytest.raises(OSError, match=f"'mnist' could not be prepared in {data_dir}"):
            jaxrnn.load(split="train", data_dir=data_dir)


class Flags(tfds.core.GeneratorBasedBuilder):
    """A dataset of somebody else's, registered with tfds: 7 images of 4 × 5 × 3, and 2 others."""

    VERSION = tfds.core.Version("1.0.0")
    LABEL = tfds.features.ClassLabel(names=["stripes", "cross"])

    def _info(self):
        image = tfds.features.Tensor(shape=(None, 5, 3), dtype=np.uint8)
        features = tfds.features.FeaturesDict({"image": image, "label": self.LABEL})
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label"),
            disable_shuffling=True,
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples([4] * 7), "odd": self._generate_examples([4, 3])}

    def _generate_examples(self, heights):
        for index, height in enumerate(heights):
            yield index, {"image": np.full((height, 5, 3), index, np.uint8), "label": index % 2}


class Numbers(Flags):
    """Labelled with numbers, which are no classes."""

    LABEL = np.float32


def test_tfds_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrnn.data.readers.builders._AT_ONCE", 3)
    for split, expected in (("train[1:]", range(1, 7)), ("train[5:]+train[:2]", (5, 6, 0, 1))):
        flags = jaxrnn.load("flags", split=split, data_dir=tmp_path)
        np.testing.assert_array_equal(flags.inputs[:, 0, 0], expected)
        np.testing.assert_array_equal(flags.labels, np.array(expected) % 2)
    assert flags.inputs.shape == (4, 4, 15)
    assert (flags.class_names, flags.channels) == (("stripes", "cross"), 3)
    (kept,) = (tmp_path / "jaxrnn").iterdir()
    assert kept.name.startswith("flags-train-")
    with pytest.raises(ValueError, match=r"images differ in size: \[\(3, 5, 3\), \(4, 5, 3\)\]"):
        jaxrnn.load("flags", split="odd", data_dir=tmp_path)


def test_dataset_without_classes_is_refused_before_preparation(tmp_path):
    with pytest.raises(ValueError, match="'numbers' is not a dataset of labelled images"):
        jaxrnn.load("numbers", split="train", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_default_dirs_are_used_unless_others_are_given(tmp_path, digits):
    (tmp_path / "file").write_text("")
    with default_dirs(tmp_path / "file" / "data", None):
        with pytest.raises(OSError, match=r"could not be prepared in .*/file/data"):
            jaxrnn.load("mnist", split="train[:5]")
        given = jaxrnn.load("mnist", split="train[:5]", data_dir=os.environ["TFDS_DATA_DIR"])
    np.testing.assert_array_equal(given.inputs, digits.inputs[:5])
    assert len(jaxrnn.load("mnist", split="train[:5]")) == 5
    with default_dirs(None, tmp_path), pytest.raises(FileNotFoundError, match="lacks train-"):
        jaxrnn.load("mnist", split="train[:5]")


def test_image_sequences_build_datasets():
    group = jaxrnn.ImageSequences(train="train[:50]", validation="train[50:70]", rows=14)
    data = group.build()
    assert isinstance(data.train, jaxrnn.Source)
    assert (list(data.evals), data.outputs) == (["validation", "test"], 10)
    assert data.train.load().inputs.shape == (50, 14, 56)
    assert data.evals["validation"].inputs.shape == (20, 14, 56)
    assert list(jaxrnn.ImageSequences(train="train[:50]", test=None).build().evals) == []
