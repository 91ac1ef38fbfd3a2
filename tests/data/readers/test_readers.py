"""The MNIST family's builders: order, checksums, archives of one's own, concurrent preparation."""

import gzip
import hashlib
import http.server
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

import jaxrnn
from jaxrnn.data.readers import find_builder, prepare
from jaxrnn.data.readers.idx import read_idx
from jaxrnn.data.readers.mnist import BUNDLED_ARCHIVES, FAMILY, Kmnist, Mnist
from jaxrnn.data.readers.records import serialize


@pytest.fixture
def archives(tmp_path):
    """A copy of the bundled archives to damage."""
    return Path(shutil.copytree(BUNDLED_ARCHIVES, tmp_path / "archives"))


def open_builder(name, **options):
    """Found and prepared."""
    builder = find_builder(name, **options)
    prepare(builder)
    return builder


@pytest.mark.program
def test_prepared_data_is_the_archives_in_file_order():
    train, test = jaxrnn.load(split="train"), jaxrnn.load(split="test")
    for split, prefix in ((train, "train"), (test, "t10k")):
        images = read_idx(BUNDLED_ARCHIVES / f"{prefix}-images-idx3-ubyte.gz")[0]
        labels = read_idx(BUNDLED_ARCHIVES / f"{prefix}-labels-idx1-ubyte.gz")[0]
        np.testing.assert_array_equal(split.inputs, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert (len(train), len(test)) == (60_000, 10_000)


def test_plain_tfds_reads_what_was_prepared():
    directory = open_builder("mnist").data_dir
    source = tfds.builder_from_directory(directory).as_data_source("train")
    assert source[0]["image"].shape == (28, 28, 1)
    assert int(source[0]["label"]) == 5


def test_examples_stored_in_either_order_are_read(monkeypatch):
    """Protocol buffers promise no order of a map's entries; the fast path needs one."""
    builder = open_builder("mnist")
    fast = builder.read("test[:50]")
    source = builder.as_data_source(
        "test[:50]", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    first, *records = source.data_source.__getitems__(range(50))
    image = first.index(b"\n\xa0\x06\n\x05image")
    label = first.index(b"\n\x0e\n\x05label")
    parts = {image: first[image : image + 803], label: first[label : label + 16]}
    swapped = first[: min(parts)] + parts[max(parts)] + parts[min(parts)]
    assert swapped != first
    assert sorted(swapped) == sorted(first)

    class Records(list):
        def read(self, places):
            return [self[place] for place in places]

    stored = Records([swapped, *records])
    monkeypatch.setattr(builder, "records", lambda split: stored)
    for ours, theirs in zip(builder.read("test[:50]"), fast, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.program
def test_preparing_prints_nothing(tmp_path, capfd):
    open_builder("mnist", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_missing_archive(archives, tmp_path):
    (archives / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte"):
        open_builder("mnist", data_dir=tmp_path / "data", archives=archives)
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        open_builder("mnist", data_dir=tmp_path / "data", archives=tmp_path / "none")
    assert not (tmp_path / "data").exists()


def test_truncated_archive(archives, tmp_path):
    path = archives / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated"):
        open_builder("mnist", data_dir=tmp_path / "data", archives=archives)


def test_altered_archives_are_other_data(archives, tmp_path):
    """Used, with a warning; what is prepared of the published ones stays as it is."""
    path = archives / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    builder = find_builder("mnist", archives=archives)
    assert builder.name.startswith("mnist_")
    assert find_builder("mnist", archives=BUNDLED_ARCHIVES).name == "mnist"


@pytest.mark.program
def test_archives_that_were_compressed_anew_are_the_same_data(archives, tmp_path):
    path = archives / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    labels = jaxrnn.load(
        "mnist", split="test", data_dir=tmp_path / "data", archives=archives
    ).labels
    np.testing.assert_array_equal(labels, jaxrnn.load(split="test").labels)


def small_archives(folder: Path) -> dict[str, str]:
    """Four sound archives of a few random images; returns the SHA-256 of each."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    checksums = {}
    for prefix, size in (("train", 30), ("t10k", 10)):
        images = struct.pack(">4B3I", 0, 0, 8, 3, size, 28, 28) + generator.bytes(size * 784)
        labels = struct.pack(">4BI", 0, 0, 8, 1, size) + bytes(i % 10 for i in range(size))
        for name, content in ((f"{prefix}-images-idx3-ubyte.gz", images),
                              (f"{prefix}-labels-idx1-ubyte.gz", labels)):  # fmt: skip
            archive = gzip.compress(content)
            (folder / name).write_bytes(archive)
            checksums[name] = hashlib.sha256(archive).hexdigest()
    return checksums


def test_kmnist_from_a_folder_of_archives(tmp_path, monkeypatch):
    """Of KMNIST the checksums of the compressed files are known."""
    checksums = small_archives(tmp_path / "archives")
    infos = {
        Kmnist.URL + name: SimpleNamespace(checksum=checksum)
        for name, checksum in checksums.items()
    }
    monkeypatch.setattr(Kmnist, "url_infos", infos)
    split = jaxrnn.load(
        "kmnist",
        split="train[50%:]",
        data_dir=tmp_path / "data",
        archives=tmp_path / "archives",
    )
    assert split.inputs.shape == (15, 28, 28)
    assert split.class_names[1] == "ki"
    assert (tmp_path / "data" / "kmnist").is_dir()
    assert split.labels.tolist() == [i % 10 for i in range(15, 30)]


def test_every_url_of_the_family_has_a_registered_checksum():
    for name in ("fashion_mnist", "kmnist"):
        builder = FAMILY[name]
        urls = [url for url in builder.url_infos if url.startswith(builder.URL)]
        assert len(urls) == 4
        assert all(len(builder.url_infos[url].checksum) == 64 for url in urls)


def test_download_goes_through_tfds(tmp_path, monkeypatch):
    asked = []

    def download(self, urls):
        asked.extend(urls.values())
        raise ConnectionError("no network here")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    with pytest.raises(OSError, match="'kmnist' could not be prepared"):
        open_builder("kmnist", data_dir=tmp_path)
    assert asked[0] == "http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz"


PREPARE = """
import sys
import jaxrnn
sys.stdin.readline()
print(len(jaxrnn.load(split="train", data_dir=sys.argv[1])))
"""


@pytest.mark.program
def test_two_processes_prepare_at_once(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "60000\n"), err
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["1.0.0"]
    assert len(jaxrnn.load(split="test", data_dir=tmp_path)) == 10_000


@pytest.mark.program
def test_the_loser_of_the_race_uses_the_winner_s_data(tmp_path, monkeypatch):
    """The final rename finds the folder taken, as if another process had just finished."""
    finished = open_builder("mnist")
    read = Mnist._contents_of

    def read_late(self, dl_manager):
        target = tmp_path / "mnist" / "1.0.0"
        shutil.copytree(finished.data_dir, target)
        return read(self, dl_manager)

    monkeypatch.setattr(Mnist, "_contents_of", read_late)
    builder = open_builder("mnist", data_dir=tmp_path)
    assert len(builder.as_data_source("test")) == 10_000
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["1.0.0"]


@pytest.mark.program
def test_data_that_another_process_prepares_meanwhile_is_read(tmp_path):
    builder = find_builder("mnist", data_dir=tmp_path)
    assert not builder.info.splits
    open_builder("mnist", data_dir=tmp_path)
    prepare(builder)
    assert builder.info.splits["test[:50]"].num_examples == 50


@pytest.fixture
def prepared(tmp_path):
    """A copy of the prepared data to damage."""
    source = Path(open_builder("mnist").data_dir)
    return Path(shutil.copytree(source, tmp_path / "data" / "mnist" / source.name))


@pytest.mark.parametrize("damage", ["truncated", "missing", "no info", "bad info", "empty"])
def test_damaged_prepared_data(prepared, damage):
    (shard,) = prepared.glob("mnist-test*")
    info = prepared / "dataset_info.json"
    match damage:
        case "truncated":
            shard.write_bytes(shard.read_bytes()[: 10**6])
        case "missing":
            shard.unlink()
        case "no info":
            info.unlink()
        case "bad info":
            info.write_text("{")
        case "empty":
            shutil.rmtree(prepared)
            prepared.mkdir()
    with pytest.raises(ValueError, match=r"is damaged \(.*\); delete") as caught:
        jaxrnn.load(split="test", data_dir=prepared.parents[1])
    assert "\n" not in str(caught.value)


class Archives(http.server.BaseHTTPRequestHandler):
    """A server that has other files than the ones whose checksums are registered."""

    def do_GET(self):
        if self.server.status == 200:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(gzip.compress(b"something else"))
        else:
            self.send_error(self.server.status)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    ("status", "message"),
    [(200, r"could not be prepared in .*hecksum"), (404, r"could not be prepared in .*404")],
)
def test_download_that_fails(tmp_path, monkeypatch, status, message):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archives) as server:
        server.status = status
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        infos = {url + Path(old).name: info for old, info in Kmnist.url_infos.items()}
        monkeypatch.setattr(Kmnist, "url_infos", infos)
        monkeypatch.setattr(Kmnist, "URL", url)
        with pytest.raises(OSError, match=message):
            open_builder("kmnist", data_dir=tmp_path)
        server.shutdown()
    assert not (tmp_path / "kmnist" / "1.0.0").exists()


def test_nothing_imports_tensorflow():
    code = (
        "import sys, jaxrnn, experiments.mnist_rnn; jaxrnn.load(split='test[:5]');"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_records_are_read_by_tfds(tmp_path):
    """Also labels that take two bytes."""
    images = np.random.default_rng(0).integers(0, 256, (300, 2, 3), np.uint8)
    labels = np.arange(300)
    test = {"x_test": images[:1], "y_test": labels[:1]}
    np.savez(tmp_path / "many.npz", x_train=images, y_train=labels, **test)
    builder = open_builder(str(tmp_path / "many.npz"), data_dir=tmp_path)
    for read, (image, label) in zip(
        builder.as_data_source("train"), zip(images, labels, strict=True), strict=True
    ):
        np.testing.assert_array_equal(read["image"][..., 0], image)
        assert read["label"] == label
    ours = builder.read("train")
    np.testing.assert_array_equal(ours[0], images)
    np.testing.assert_array_equal(ours[1], labels)


def test_other_file_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match='file_format="array_record" only'):
        Mnist(data_dir=tmp_path).download_and_prepare()


@pytest.mark.parametrize("pixels", [b"\xff", b"\xff\xff\x01", bytes(300)])
def test_records_of_any_pixels_and_labels(pixels):
    """Whatever bytes an image and a label have: 255 is stored as ff 01."""
    images = np.frombuffer(pixels, np.uint8).reshape(1, 1, -1).repeat(3, 0)
    labels = np.array([0, 255, 16_383])
    for record, image, label in zip(serialize(images, labels), images, labels, strict=True):
        feature = tf_example_pb2.Example.FromString(record).features.feature
        assert {name: list(feature[name].bytes_list.value) for name in feature} == {
            "image": [image.tobytes()], "label": [],
        }  # fmt: skip
        assert list(feature["label"].int64_list.value) == [label]
