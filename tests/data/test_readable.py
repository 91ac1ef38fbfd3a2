"""Examples as other libraries hold them: by index or by iteration, in whatever containers."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import jaxrnn
from jaxrnn import Split
from tests.shared import assert_identical

INPUTS = np.random.default_rng(0).random((10, 4, 3)).astype(np.float32)
LABELS = np.arange(10, dtype=np.int32) % 3
SPLIT = Split(INPUTS, LABELS)
PAIRS = list(zip(INPUTS, LABELS, strict=True))


class Subset:
    """A torch Subset, with the attribute that leads to the whole dataset."""

    def __init__(self, dataset, indices, change=lambda inputs: inputs):
        self.dataset, self.indices, self.change = dataset, indices, change

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        inputs, label = self.dataset[self.indices[index]]
        return self.change(inputs), label


class Loader:
    """A torch DataLoader that draws from a sampler."""

    def __init__(self, dataset):
        self.dataset, self.sampler = dataset, [3, 3, 1]

    def __len__(self):
        return 1

    def __iter__(self):
        yield INPUTS[self.sampler], LABELS[self.sampler]


def all_of(source):
    return next(iter(jaxrnn.stream(source, batch_size=len(source))))


def test_subsets_are_what_they_give():
    rows = [7, 2, 5]
    for source in (Subset(PAIRS, rows), Subset(Subset(PAIRS, rows[::-1]), [2, 1, 0])):
        assert_identical(all_of(source), {"inputs": INPUTS[rows], "labels": LABELS[rows]})
    doubled = all_of(Subset(PAIRS, rows, lambda inputs: inputs * 2))
    np.testing.assert_array_equal(doubled["inputs"], INPUTS[rows] * 2)


def test_loaders_are_refused_or_read_once():
    loader = Loader(PAIRS)
    with pytest.raises(ValueError, match=r"Loader chooses the order .*; .*\.dataset.*iter\("):
        jaxrnn.stream(loader, batch_size=2)
    (batch,) = jaxrnn.stream(iter(loader), batch_size=3)
    assert_identical(batch, {"inputs": INPUTS[[3, 3, 1]], "labels": LABELS[[3, 3, 1]]})


def in_dicts(image, label):
    """Examples one by one, with another value, and two batches of them."""
    rows = [{image: inputs, label: number, "id": number} for inputs, number in PAIRS]
    return rows, iter({image: INPUTS[s], label: LABELS[s]} for s in np.s_[:6, 6:])


CONTAINERS = {
    "tuple": (INPUTS, LABELS),
    "batch": {"inputs": INPUTS, "labels": LABELS},
    "tfds": {"image": INPUTS, "label": LABELS},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_arrays_in_containers(name):
    pairs = (jaxrnn.batches(arrays, 0, batch_size=4) for arrays in (CONTAINERS[name], SPLIT))
    for found, batch in zip(*pairs, strict=True):
        assert_identical(found, batch)


@pytest.mark.parametrize(
    "source",
    [
        *CONTAINERS.values(),
        *(PAIRS, iter(PAIRS), iter([(INPUTS[:4], LABELS[:4]), (INPUTS[4:], LABELS[4:])])),
        *(*in_dicts("image", "label"), *in_dicts("inputs", "labels")),
    ],
)
def test_streams_of_the_same_examples(source):
    pairs = (jaxrnn.stream(each, batch_size=4) for each in (source, SPLIT))
    for found, batch in zip(*pairs, strict=True):
        assert_identical(found, batch)


@pytest.mark.parametrize(
    "arrays", [{"x": INPUTS, "y": LABELS}, (INPUTS,), INPUTS, SimpleNamespace(inputs=INPUTS)]
)
def test_other_containers_are_refused_in_one_line(arrays):
    with pytest.raises(ValueError, match="inputs, labels") as caught:
        next(jaxrnn.batches(arrays, 0, batch_size=4))
    assert "\n" not in str(caught.value)


def test_images_with_their_channels_first():
    images = [(np.zeros((1, 7, 9)), 1.5) for _ in range(6)]
    batch = next(iter(jaxrnn.stream(images, batch_size=np.int64(6))))
    assert (batch["inputs"].shape, batch["targets"].shape) == ((6, 7, 9), (6,))


def test_iterables_of_examples_with_a_label_for_each_time_step():
    labels = np.zeros(INPUTS.shape[:2], np.int32)
    (batch,) = jaxrnn.stream(zip(INPUTS, labels, strict=True), batch_size=len(INPUTS))
    assert_identical(batch, {"inputs": INPUTS, "labels": labels})


def test_named_tuples_are_read_by_their_names():
    Pair = namedtuple("Pair", "target image length")
    (batch,) = jaxrnn.stream([Pair(0.5, INPUTS[0], 2), Pair(1.5, INPUTS[1], 1)], batch_size=2)
    assert batch["targets"].tolist() == [0.5, 1.5]
    assert batch["lengths"].tolist() == [2, 1]
    np.testing.assert_array_equal(batch["inputs"], INPUTS[:2])


class Table(dict):
    """A pandas DataFrame, whose items are its columns."""

    def __array__(self):
        return INPUTS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (INPUTS, "got ndarray"),
        (5, "got int"),
        (Table(), "got Table"),
        (iter([]), "there is nothing to stream"),
        (
            [(INPUTS[:4], LABELS[:4]), (INPUTS[4:8], LABELS[4:8])],
            "elements of the list are batches",
        ),
        (
            iter([(INPUTS[0], 1), (INPUTS[1], 0.5)]),
            "same arrays; got inputs, labels and inputs, ta",
        ),
        ([{"input_ids": [1, 2], "labels": 0}], "got dict of input_ids, labels"),
        ([{"image": Image.new("P", (5, 4)), "label": 0}], "picture with a palette"),
        (iter([INPUTS]), r"examples of a stream: expected .*; got ndarray"),
    ],
)
def test_invalid_sources(source, message):
    with pytest.raises(ValueError, match=message):
        jaxrnn.stream(source, batch_size=2)
