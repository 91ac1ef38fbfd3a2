"""Arrays that are kept and memory-mapped, wherever there is room for them."""

import os
from pathlib import Path

import numpy as np
import pytest

import jaxrnn
from jaxrnn.data.readers.arrays import Arrays, Images, cache

GENERATOR = np.random.default_rng(0)
ARRAYS = Arrays(GENERATOR.integers(0, 256, (9, 2, 3), np.uint8), np.arange(9, dtype=np.int32))
PIECES = [Arrays(ARRAYS.images[rows], ARRAYS.labels[rows]) for rows in (slice(4), slice(4, 9))]


def read():
    return Images({"train": iter(PIECES)}, ("é", "b"), 16)


@pytest.fixture(autouse=True)
def fallback(tmp_path, monkeypatch):
    """Where arrays are kept that can't be kept in the data_dir."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"tensorflow_datasets-{os.getuid()}"


def check(data_dir, read=read, files=()):
    splits, class_names, pixel_max = cache(data_dir, "digits", files, read)
    np.testing.assert_array_equal(splits["train"].images, ARRAYS.images)
    np.testing.assert_array_equal(splits["train"].labels, ARRAYS.labels)
    assert (list(splits), class_names, pixel_max) == (["train"], ("é", "b"), 16)
    assert isinstance(splits["train"].images.base, np.memmap)


def kept_in(folder):
    return sorted(path.name[:7] for path in (folder / "jaxrnn").iterdir())


def test_arrays_are_kept_in_pieces_and_mapped(tmp_path):
    check(tmp_path)
    check(tmp_path, None)  # the second time, nothing is read
    assert kept_in(tmp_path) == ["digits-"]
    check(tmp_path, files=[Path(__file__)])
    assert kept_in(tmp_path) == ["digits-"] * 2
    (folder, _) = (tmp_path / "jaxrnn").iterdir()
    os.umask(mask := os.umask(0))
    assert (folder.stat().st_mode & 0o777) == 0o777 & ~mask


def test_unwritable_directory(fallback):
    for reader in (read, None):
        check(Path("/proc/data"), reader)
    assert kept_in(fallback) == ["digits-"]


def test_full_disk(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        check(tmp_path)
    assert kept_in(tmp_path) == []


@pytest.mark.parametrize("damage", ["truncated", "missing", "names"])
def test_damaged_arrays_are_replaced(tmp_path, damage):
    check(tmp_path)
    (folder,) = (tmp_path / "jaxrnn").iterdir()
    if damage == "truncated":
        os.truncate(folder / "train-images", 50)
    elif damage == "missing":
        (folder / "train-labels").unlink()
    else:
        (folder / "arrays.json").write_text("{")
    check(tmp_path)
    check(tmp_path, None)


def test_another_process_is_faster(tmp_path):
    def read_late():
        check(tmp_path)
        return read()

    check(tmp_path, read_late)
    assert kept_in(tmp_path) == ["digits-"]


def test_prepared_data_in_an_unwritable_directory(tmp_path, fallback, digits):
    """A data_dir where mnist is prepared, but arrays can't be kept."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(Path(os.environ["TFDS_DATA_DIR"]) / "mnist")
    (tmp_path / "data" / "jaxrnn").write_text("")
    for _ in range(2):
        split = jaxrnn.load("mnist", split="train[:500]", data_dir=tmp_path / "data")
        np.testing.assert_array_equal(split.inputs, digits.inputs)
    assert [name[:6] for name in kept_in(fallback)] == ["mnist-"]


def test_unwritable_home(fallback, monkeypatch, caplog, digits):
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/proc/home")
    split = jaxrnn.load("mnist", split="train[:500]")
    np.testing.assert_array_equal(split.inputs, digits.inputs)
    message = (
        f"/proc/home/tensorflow_datasets cannot be created; preparing data in {fallback} instead"
    )
    assert message in caplog.text
