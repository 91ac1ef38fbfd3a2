"""Arrays that are kept and memory-mapped, wherever there is room for them."""

import os
from pathlib import Path

import numpy as np
import platformdirs
import pytest

import jaxrnn
from jaxrnn.data.readers.arrays import Arrays, Images, keep

GENERATOR = np.random.default_rng(0)
ARRAYS = Arrays(GENERATOR.integers(0, 256, (9, 2, 3), np.uint8), np.arange(9, dtype=np.int32))
PIECES = [Arrays(ARRAYS.images[rows], ARRAYS.labels[rows]) for rows in (slice(4), slice(4, 9))]
IMAGES = Images({"train": lambda: iter(PIECES)}, ("é", "b"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache directory of the user."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache"


def check(data_dir, read=lambda: IMAGES, identity="1"):
    splits, class_names = keep(data_dir, "digits", identity, read)
    np.testing.assert_array_equal(splits["train"].images, ARRAYS.images)
    np.testing.assert_array_equal(splits["train"].labels, ARRAYS.labels)
    assert (list(splits), class_names) == (["train"], ("é", "b"))
    return splits["train"].images


def kept_in(folder):
    return sorted(path.name[:7] for path in folder.iterdir())


def test_arrays_are_kept_in_pieces_and_mapped(tmp_path):
    for read in (lambda: IMAGES, None):  # the second time, nothing is read
        assert isinstance(check(tmp_path / "data", read).base, np.memmap)
    assert kept_in(tmp_path / "data" / "jaxrnn") == ["digits-"]
    check(tmp_path / "data", identity="2")
    assert kept_in(tmp_path / "data" / "jaxrnn") == ["digits-"] * 2
    (folder, _) = (tmp_path / "data" / "jaxrnn").iterdir()
    assert (folder.stat().st_mode & 0o777) == 0o777 & ~umask()


def umask():
    os.umask(mask := os.umask(0))
    return mask


def test_a_directory_that_cannot_be_written(tmp_path, cache, caplog):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "jaxrnn").write_text("")
    for read in (lambda: IMAGES, None):
        check(tmp_path / "data", read)
    assert kept_in(cache / "jaxrnn" / "data") == ["digits-"]
    assert not caplog.records


def test_nothing_can_be_written(tmp_path, cache, caplog):
    cache.write_text("")
    assert check(Path("/proc/data")).base is None
    assert "digits is held in memory, as neither /proc/data/jaxrnn/digits-" in caplog.text


def test_full_disk(tmp_path, cache, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    check(tmp_path / "data")
    assert kept_in(tmp_path / "data" / "jaxrnn") == []


@pytest.mark.parametrize("damage", ["truncated", "missing", "names"])
def test_damaged_arrays_are_replaced(tmp_path, damage):
    check(tmp_path)
    (folder,) = (tmp_path / "jaxrnn").iterdir()
    if damage == "truncated":
        with (folder / "train-images.npy").open("r+b") as file:
            file.truncate(150)
    else:
        (folder / "train-labels.npy").unlink()
    if damage == "names":
        (folder / "names.json").write_text("{")
    check(tmp_path)
    assert isinstance(check(tmp_path, None).base, np.memmap)


def test_another_process_is_faster(tmp_path):
    def read():
        check(tmp_path)
        return IMAGES

    check(tmp_path, read)
    assert kept_in(tmp_path / "jaxrnn") == ["digits-"]


def test_prepared_data_in_a_directory_that_cannot_be_written(tmp_path, cache, digits):
    """A data_dir where mnist is prepared, but arrays can't be kept."""
    prepared = Path(os.environ["TFDS_DATA_DIR"]) / "mnist"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(prepared)
    (tmp_path / "data" / "jaxrnn").write_text("")
    for _ in range(2):
        split = jaxrnn.load("mnist", split="train[:500]", data_dir=tmp_path / "data")
        np.testing.assert_array_equal(split.inputs, digits.inputs)
    assert kept_in(cache / "jaxrnn" / "data") == ["mnist-e"]


def test_home_that_cannot_be_written(tmp_path, cache, monkeypatch, caplog, digits):
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/proc/home")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    split = jaxrnn.load("mnist", split="train[:500]")
    np.testing.assert_array_equal(split.inputs, digits.inputs)
    (folder,) = tmp_path.glob("tensorflow_datasets-*")
    assert (
        f"/proc/home/tensorflow_datasets cannot be made; preparing data in {folder}" in caplog.text
    )
