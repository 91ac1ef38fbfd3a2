"""The MNIST family: order, checksums, given archives, preparation by several processes."""

import gzip
import http.server
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

import jaxrnn
from jaxrnn.data.readers.builders import BUILDERS, Kmnist, LabelledImages, Mnist, open_builder
from jaxrnn.data.readers.files import FAMILY, IDX_NAMES, read_idx
from tests.data.readers import idx


@pytest.fixture
def archives(tmp_path):
    """A copy of the bundled archives to damage."""
    return Path(shutil.copytree(Mnist.ARCHIVES, tmp_path / "archives"))


@pytest.fixture
def kmnist(tmp_path, monkeypatch):
    """Options to load a small KMNIST, which comes from archives instead of a download."""
    (tmp_path / "archives").mkdir()
    generator = np.random.default_rng(0)
    for role, name in IDX_NAMES.items():
        labels = (np.arange(30 if role.startswith("train") else 10) % 10).astype(np.uint8)
        images = generator.integers(0, 256, (len(labels), 28, 28), np.uint8)
        archive = gzip.compress(idx(images if role.endswith("images") else labels))
        (tmp_path / "archives" / name).write_bytes(archive)
    monkeypatch.setattr(Kmnist, "ARCHIVES", tmp_path / "archives")
    return {"data_dir": tmp_path / "data"}


@pytest.mark.program
def test_prepared_data_is_the_archives_in_file_order():
    for split, prefix, size in (("train", "train", 60_000), ("test", "t10k", 10_000)):
        loaded = jaxrnn.load(split=split)
        assert len(loaded) == size
        for kind, array in (("images-idx3", loaded.inputs), ("labels-idx1", loaded.labels)):
            expected = read_idx(Mnist.ARCHIVES / f"{prefix}-{kind}-ubyte.gz")
            np.testing.assert_array_equal(array, expected)


def test_tfds_reads_prepared_data():
    digits = jaxrnn.load(split="train")
    directory = open_builder("mnist", Path(tfds.core.constants.DATA_DIR)).data_dir
    source = tfds.builder_from_directory(directory).as_data_source("train")
    assert len(source) == 60_000
    for place in (0, 1, 59_999):
        np.testing.assert_array_equal(source[place]["image"][..., 0], digits.inputs[place])
        assert source[place]["label"] == digits.labels[place]


def test_missing_or_truncated_archives(archives, tmp_path):
    places = {"data_dir": tmp_path / "data", "archives": archives}
    path = archives / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated"):
        jaxrnn.load("mnist", split="train", **places)
    (archives / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte"):
        jaxrnn.load("mnist", split="train", **places)
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        jaxrnn.load("mnist", split="train", archives=tmp_path / "none")
    assert not (tmp_path / "data").exists()


@pytest.mark.program
def test_archives_are_known_by_their_content(archives, tmp_path, caplog):
    """Recompressed ones are the same data; altered ones are other data, used with a warning."""
    places = {"data_dir": tmp_path / "data", "archives": archives}
    expected = jaxrnn.load(split="test")
    path = archives / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(content, compresslevel=0))
    np.testing.assert_array_equal(jaxrnn.load(split="test", **places).labels, expected.labels)
    assert not caplog.records
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    labels = jaxrnn.load(split="test", **places).labels
    assert labels[-1] == expected.labels[-1] ^ 1
    np.testing.assert_array_equal(labels[:-1], expected.labels[:-1])
    assert f"the files in {archives} are not those published as mnist" in caplog.text
    kept = jaxrnn.load(split="test", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(kept.labels, expected.labels)


def test_given_archives_of_the_family(kmnist, tmp_path):
    split = jaxrnn.load("KMNIST", split="train[50%:]", archives=Kmnist.ARCHIVES, **kmnist)
    assert split.class_names[1] == "ki"
    assert split.labels.tolist() == [i % 10 for i in range(15, 30)]
    for _ in range(2):  # as they are, and from what tfds has prepared
        again = jaxrnn.load("kmnist", split="train[50%:]", **kmnist)
        np.testing.assert_array_equal(again.inputs, split.inputs)
        np.testing.assert_array_equal(again.labels, split.labels)
        assert (tmp_path / "data" / "kmnist" / "1.0.0").is_dir()
        shutil.rmtree(tmp_path / "data" / "jaxrnn")


@pytest.mark.parametrize("damage", ["truncated", "missing", "no info", "bad info"])
def test_damaged_prepared_data(kmnist, tmp_path, damage):
    jaxrnn.load("kmnist", split="train", **kmnist)
    shutil.rmtree(tmp_path / "data" / "jaxrnn")
    prepared = tmp_path / "data" / "kmnist" / "1.0.0"
    (shard,), info = prepared.glob("kmnist-test*"), prepared / "dataset_info.json"
    path = info if "info" in damage else shard
    content = path.read_bytes()
    path.unlink()
    if damage in ("truncated", "bad info"):
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises((ValueError, OSError), match=r"could not be prepared in .*: .*; choose"):
        jaxrnn.load("kmnist", split="test", **kmnist)


def test_every_url_of_the_family_has_a_registered_checksum():
    assert tuple(BUILDERS) == FAMILY
    for name in ("fashion_mnist", "kmnist"):
        builder = BUILDERS[name]
        assert {builder.URL + file for file in IDX_NAMES.values()} <= set(builder.url_infos)


PREPARE = """
import sys
import jaxrnn, experiments.mnist_rnn
print(len(jaxrnn.load(split="train", data_dir=sys.argv[1])), "tensorflow" in sys.modules)
"""


@pytest.mark.program
def test_two_processes_prepare_at_once(tmp_path):
    """Quietly, and without TensorFlow."""
    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=120) == ("60000 False\n", "")
        assert process.returncode == 0
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["1.0.0"]
    assert len(list((tmp_path / "jaxrnn").iterdir())) == 1
    assert len(jaxrnn.load(split="test", data_dir=tmp_path)) == 10_000


@pytest.mark.parametrize("when", ["before", "during"])
def test_data_that_another_process_prepares_meanwhile_is_used(kmnist, tmp_path, monkeypatch, when):
    jaxrnn.load("kmnist", split="train", **kmnist)
    finished = (tmp_path / "data" / "kmnist").rename(tmp_path / "finished")
    shutil.rmtree(tmp_path / "data" / "jaxrnn")
    step = {"before": "download_and_prepare", "during": "_download_and_prepare"}[when]
    proceed = getattr(LabelledImages, step)

    def be_late(self, *arguments, **options):
        shutil.copytree(finished, tmp_path / "data" / "kmnist", dirs_exist_ok=True)
        return proceed(self, *arguments, **options)

    monkeypatch.setattr(LabelledImages, step, be_late)
    assert len(jaxrnn.load("kmnist", split="test", **kmnist)) == 10
    assert [path.name for path in (tmp_path / "data" / "kmnist").iterdir()] == ["1.0.0"]


@pytest.mark.parametrize(("files", "message"), [(IDX_NAMES, "Artifact"), ({}, "404")])
def test_download_that_fails(tmp_path, monkeypatch, files, message):
    """There are other files than the ones whose checksums are registered, or none."""
    for name in files.values():
        (tmp_path / name).write_bytes(gzip.compress(b"something else"))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        infos = {url + Path(old).name: info for old, info in Kmnist.url_infos.items()}
        monkeypatch.setattr(Kmnist, "url_infos", infos)
        monkeypatch.setattr(Kmnist, "URL", url)
        with pytest.raises(ValueError, match=f"'kmnist' could not be prepared in .*{message}"):
            jaxrnn.load("kmnist", split="train", data_dir=tmp_path / "data")
        server.shutdown()
    assert not (tmp_path / "data" / "kmnist" / "1.0.0").exists()
