"""Examples as other libraries hold them: by index or by iteration, in whatever containers."""

from types import SimpleNamespace

import numpy as np
import pytest

import jaxrnn
from jaxrnn import Split
from tests.conftest import assert_identical

INPUTS = np.random.default_rng(0).random((10, 4, 3)).astype(np.float32)
LABELS = np.arange(10, dtype=np.int32) % 3
SPLIT = Split(INPUTS, LABELS)


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


@pytest.mark.xfail(reason="the dataset of a subset is streamed")
def test_subsets_are_what_they_give():
    pairs = list(zip(INPUTS, LABELS, strict=True))
    rows = [7, 2, 5]
    for source in (Subset(pairs, rows), Subset(Subset(pairs, rows[::-1]), [2, 1, 0])):
        assert_identical(all_of(source), {"inputs": INPUTS[rows], "labels": LABELS[rows]})
    doubled = all_of(Subset(pairs, rows, lambda inputs: inputs * 2))
    np.testing.assert_array_equal(doubled["inputs"], INPUTS[rows] * 2)


@pytest.mark.xfail(reason="the dataset of a loader is streamed")
def test_loaders_are_refused_or_read_once():
    loader = Loader(list(zip(INPUTS, LABELS, strict=True)))
    with pytest.raises(ValueError, match=r"Loader draws .* order of its own; .*\.dataset.*iter\("):
        jaxrnn.stream(loader, batch_size=2)
    (batch,) = jaxrnn.stream(iter(loader), batch_size=3)
    assert_identical(batch, {"inputs": INPUTS[[3, 3, 1]], "labels": LABELS[[3, 3, 1]]})


@pytest.mark.xfail(reason="dicts are read as strings")
@pytest.mark.parametrize("names", [("image", "label"), ("inputs", "labels")])
def test_streams_of_dicts(names):
    rows = [dict(zip((*names, "id"), row, strict=True)) for row in zip(INPUTS, LABELS, LABELS)]
    expected = {"inputs": INPUTS, "labels": LABELS}
    assert_identical(all_of(rows), expected)
    batches = [{names[0]: INPUTS[part], names[1]: LABELS[part]} for part in (slice(6), slice(6, 10))]
    assert_identical(next(iter(jaxrnn.stream(iter(batches), batch_size=10))), expected)


CONTAINERS = {
    "tuple": (INPUTS, LABELS),
    "list": [INPUTS, LABELS],
    "batch": {"inputs": INPUTS, "labels": LABELS},
    "tfds": {"image": INPUTS, "label": LABELS},
}


@pytest.mark.xfail(reason="only splits and batches are taken", strict=False)
@pytest.mark.parametrize("name", CONTAINERS)
def test_arrays_in_containers(name):
    arrays = CONTAINERS[name]
    assert_identical(all_of(SPLIT), next(iter(jaxrnn.stream(arrays, batch_size=10))))
    for found, batch in zip(
        jaxrnn.batches(arrays, batch_size=4), jaxrnn.batches(SPLIT, batch_size=4), strict=True
    ):
        assert_identical(found, batch)


@pytest.mark.parametrize(
    "arrays", [{"x": INPUTS, "y": LABELS}, (INPUTS,), INPUTS, SimpleNamespace(inputs=INPUTS)]
)
def test_other_containers_are_refused_in_one_line(arrays):
    with pytest.raises(ValueError, match="inputs, labels") as caught:
        jaxrnn.batches(arrays, batch_size=4)
    assert "\n" not in str(caught.value)
