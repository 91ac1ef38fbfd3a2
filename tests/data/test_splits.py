"""Loading by name and split string, and the order of batches."""

import re

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

import jaxrnn
from jaxrnn.data import as_sequences, epoch_indices, scale, take


def test_protocol_splits_meet_without_overlap():
    whole = jaxrnn.load(split="train")
    for names in (("train[:5000]", "train[5000:]"), ("train[:48000]", "train[48000:]"),
                  ("train[:80%]", "train[80%:]")):  # fmt: skip
        parts = [jaxrnn.load(split=name) for name in names]
        np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), whole.labels)
        np.testing.assert_array_equal(np.concatenate([p.inputs for p in parts]), whole.inputs)
    assert len(parts[0]) == 48_000


def test_dtypes_and_names(digits):
    assert digits.inputs.dtype == np.uint8
    assert digits.labels.dtype == np.int32
    assert digits.class_names == tuple("0123456789")


def test_rows(digits):
    pixels = jaxrnn.load(split="train[:500]", rows=784)
    assert pixels.inputs.shape == (500, 784, 1)
    np.testing.assert_array_equal(pixels.inputs.reshape(digits.inputs.shape), digits.inputs)
    for rows in (0, -1, 3):
        with pytest.raises(ValueError, match=f"cannot be read as {rows} rows"):
            jaxrnn.load(split="train[:5]", rows=rows)


def test_channels_become_features():
    assert as_sequences(np.zeros((2, 32, 30, 3))).shape == (2, 32, 90)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("mnst", "train", "there is no dataset 'mnst'; did you mean mnist"),
        ("qqqqqqqq", "train", "there is no dataset 'qqqqqqqq'; try mnist"),
        ("../mnist", "train", "'../mnist' names no dataset"),
        ("", "train", "'' names no dataset"),
        ("mnist", "trian", "split 'trian' of 'mnist': "),
        ("mnist", "train[", "split 'train[' of 'mnist': "),
        ("mnist", "train[:70000]", "split 'train[:70000]' of 'mnist': "),
        ("mnist", "train[5:3]", "split 'train[5:3]' of 'mnist'"),
        ("mnist", "train[10:10]", "split 'train[10:10]' of 'mnist' holds no examples"),
    ],
)
def test_bad_names_and_splits(name, split, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        jaxrnn.load(name, split=split)
    assert "\n" not in str(caught.value)


def test_archives_are_for_the_family_only(tmp_path):
    with pytest.raises(ValueError, match="archives are read for mnist, fashion_mnist, kmnist only"):
        jaxrnn.load("cifar10", split="train", archives=tmp_path)


def test_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for data_dir in (tmp_path / "file" / "data", "/proc/data"):
        with pytest.raises(OSError, match=f"'mnist' could not be prepared in {data_dir}"):
            jaxrnn.load(split="train", data_dir=data_dir)


def test_names_of_the_family_in_any_case(digits):
    np.testing.assert_array_equal(jaxrnn.load("MNIST", split="train[:500]").labels, digits.labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(499, np.int32)}, r"got inputs \(500, 28, 28\), labels \(499,\)"),
        ({"inputs": np.zeros((500, 28), np.uint8)}, r"got inputs \(500, 28\), labels"),
        ({"lengths": np.zeros(5, np.int32)}, r"lengths \(5,\)"),
        (
            {"inputs": np.zeros((500, 28, 28), np.int32)},
            "must be uint8 pixels or floats; got int32",
        ),
        ({"labels": np.zeros(500)}, "labels must be integers; got float"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_everywhere(state, digits, change, message):
    split, key = digits.replace(**change), jax.random.key(0)
    batch = {"inputs": split.inputs, "labels": split.labels}
    if split.lengths is not None:
        batch["lengths"] = split.lengths
    for use in (
        lambda: next(jaxrnn.batches(split, key, batch_size=10)),
        lambda: jaxrnn.train_epoch(state, split, key, batch_size=10),
        lambda: jaxrnn.evaluate(state, split),
        lambda: jaxrnn.predict(state, split),
        lambda: jaxrnn.fit(state, split, key=key, epochs=1, batch_size=10),
        lambda: jaxrnn.train_step(state, batch),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_scale():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(scale(jax.numpy.asarray(pixels)), pixels / 255, rtol=1e-7)
    floats = jax.numpy.array([0.5, 3.0])
    assert scale(floats) is floats


@pytest.mark.parametrize(("size", "batch_size"), [(100, 30), (100, 50), (100, 100), (7, 1)])
def test_an_epoch_takes_each_example_once(size, batch_size):
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
    assert (labels(0) != labels(1)).any()
    assert (labels(0) != digits.labels).any()
    assert sorted(labels(0)) == sorted(digits.labels)


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


def test_split_is_a_pytree(digits):
    doubled = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), digits)
    assert len(doubled) == 1000
    assert doubled.class_names == digits.class_names
    assert doubled.lengths is None


class Flags(tfds.core.GeneratorBasedBuilder):
    """A dataset of somebody else's, registered with tfds: 7 images of 4 × 5 × 3."""

    VERSION = tfds.core.Version("1.0.0")
    LABEL = tfds.features.ClassLabel(names=["stripes", "cross"])

    def _info(self):
        image = tfds.features.Tensor(shape=(4, 5, 3), dtype=np.uint8)
        features = tfds.features.FeaturesDict({"image": image, "label": self.LABEL})
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label"),
            disable_shuffling=True,
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(7):
            yield index, {"image": np.full((4, 5, 3), index, np.uint8), "label": index % 2}


class Numbers(Flags):
    """Labelled with numbers, which are no classes."""

    LABEL = np.float32


def test_a_dataset_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrnn.data._READ_AT_ONCE", 3)
    flags = jaxrnn.load("flags", split="train[1:]", data_dir=tmp_path)
    assert flags.inputs.shape == (6, 4, 15)
    np.testing.assert_array_equal(flags.inputs[:, 0, 0], range(1, 7))
    assert flags.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert flags.class_names == ("stripes", "cross")


def test_a_dataset_without_classes_is_refused_before_it_is_prepared(tmp_path):
    with pytest.raises(ValueError, match="'numbers' is no dataset of labelled images"):
        jaxrnn.load("numbers", split="train", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
