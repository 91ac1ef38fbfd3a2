"""tfds builders of the MNIST family, without TensorFlow and, for MNIST, without a network."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from jaxrnn.data.builders.idx import read_idx
from jaxrnn.data.builders.records import Records

BUNDLED_ARCHIVES = Path(__file__).parent / "archives"
_MAX_BYTES = 60_000 * 28 * 28  # the larger of the family's images files
_PREFIXES = {"train": "train", "test": "t10k"}
_LABEL = b"\n\x05label\x12\x05\x1a\x03\n\x01"  # precedes the label in a stored example


class IdxImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """60,000 training and 10,000 test images, 28 × 28 pixels, in four gzip-compressed IDX files.

    Examples keep the order of the files, which the protocols of the ``tf1`` and ``keras`` presets
    rely on, and are stored as ArrayRecord, which ``as_data_source`` reads without TensorFlow.
    Pixels are stored as raw bytes instead of PNG, so that reading them is a copy.

    The builders are not registered with tfds, whose own builders of these names stay unchanged.

    Args:
      archives: directory with the four archives. By default the bundled ones, if the package has
        them (MNIST), otherwise those that tfds downloads.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[Mapping[str, str]] = {"1.0.0": "File order, pixels as raw bytes."}

    URL: ClassVar[str]
    CLASS_NAMES: ClassVar[tuple[str, ...]]
    ARCHIVES: ClassVar[Path | None] = None
    # SHA-256 of the decompressed content of each file, so that recompressed archives pass.
    CONTENT_SHA256: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(skip_registration=True, **kwargs)

    def __init__(self, *, archives: str | os.PathLike[str] | None = None, **kwargs: Any):
        self.archives = self.ARCHIVES if archives is None else Path(archives)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(
            shape=(28, 28, 1), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        label = tfds.features.ClassLabel(names=self.CLASS_NAMES)
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").strip(),
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            homepage=self.URL,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        paths = self._find_archives() if self.archives else self._download_archives(dl_manager)
        return {split: self._generate_examples(split, paths) for split in _PREFIXES}

    def _generate_examples(
        self, split: str, paths: Mapping[str, Path]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = self._read_split(split, paths)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image[:, :, np.newaxis], "label": int(label)}

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Read a prepared split: images (N, 28, 28) uint8 and labels (N,) int32."""
        records = self.records(split)
        return self.parse(records.read(np.arange(len(records))))

    def records(self, split: str) -> Records:
        """Random access to the raw records of a prepared split."""
        self.as_data_source(split)  # raises a clear error if the split cannot be read
        return Records(self.info.splits[split].file_instructions)

    @staticmethod
    def parse(records: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Decode raw records, one or more: images (N, 28, 28) uint8 and labels (N,) int32.

        The result is that of ``as_data_source``, several times faster: tfds decodes each example
        for any features, whereas these records differ in known positions only.
        """
        image = _features(records[0])["image"].bytes_list.value[0]
        start = records[0].index(image)
        stop = start + len(image)
        label = records[0].find(_LABEL) + len(_LABEL)
        if len({len(record) for record in records}) == 1 and len(image) == 28 * 28:
            table = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
            ends = sorted([0, start, stop, label, label + 1, table.shape[1]])
            same = (
                table[:, slice(*between)] for between in zip(ends[::2], ends[1::2], strict=True)
            )
            if all((part == part[0]).all() for part in same):
                images = np.ascontiguousarray(table[:, start:stop])
                return images.reshape(-1, 28, 28), table[:, label].astype(np.int32)
        # Protocol buffers may store the two features in either order, example by example.
        features = [_features(record) for record in records]
        pixels = b"".join(feature["image"].bytes_list.value[0] for feature in features)
        labels = [feature["label"].int64_list.value[0] for feature in features]
        return np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28), np.array(labels, np.int32)

    def verify_archives(self) -> None:
        """Read all four archives and check their SHA-256.

        Raises:
          FileNotFoundError: the directory or an archive is missing.
          ValueError: an archive is truncated, altered or not what its name says.
        """
        paths = self._find_archives()
        for split in _PREFIXES:
            self._read_split(split, paths)

    def _find_archives(self) -> dict[str, Path]:
        assert self.archives is not None
        if not self.archives.is_dir():
            raise FileNotFoundError(
                f"{self.archives} is not a directory; it should contain the archives"
            )
        paths = {name: self.archives / name for name in _archive_names()}
        missing = [name for name, path in paths.items() if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{self.archives} lacks {', '.join(missing)}")
        for name, path in paths.items():
            if name not in self.CONTENT_SHA256:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                expected = self.url_infos[self.URL + name].checksum
                if found != expected:
                    raise ValueError(f"{path} was altered: SHA-256 is {found}, expected {expected}")
        return paths

    def _download_archives(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Path]:
        # tfds verifies downloads against checksums.tsv beside this module.
        return dl_manager.download({name: self.URL + name for name in _archive_names()})

    def _read_split(self, split: str, paths: Mapping[str, Path]) -> tuple[np.ndarray, np.ndarray]:
        images_name, labels_name = _split_archive_names(split)
        images, labels = (
            read_idx(
                paths[name], rank=rank, sha256=self.CONTENT_SHA256.get(name), max_bytes=_MAX_BYTES
            )
            for name, rank in ((images_name, 3), (labels_name, 1))
        )
        if images.shape[1:] != (28, 28) or len(images) != len(labels):
            raise ValueError(
                f"{split} images and labels of {self.name} don't fit each other: shapes "
                f"{images.shape} and {labels.shape}, expected (N, 28, 28) and (N,)"
            )
        return images, labels


def _features(record: bytes) -> Mapping[str, Any]:
    return tf_example_pb2.Example.FromString(record).features.feature


def _split_archive_names(split: str) -> tuple[str, str]:
    prefix = _PREFIXES[split]
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def _archive_names() -> list[str]:
    return [name for split in _PREFIXES for name in _split_archive_names(split)]


class Mnist(IdxImages):
    """MNIST handwritten digits, Yann LeCun, Corinna Cortes, Christopher Burges (CC BY-SA 3.0)."""

    name = "mnist"
    URL = "http://yann.lecun.com/exdb/mnist/"
    CLASS_NAMES = tuple("0123456789")
    ARCHIVES = BUNDLED_ARCHIVES
    CONTENT_SHA256: ClassVar[Mapping[str, str]] = dict(
        zip(
            _archive_names(),
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            strict=True,
        )
    )


class FashionMnist(IdxImages):
    """Fashion-MNIST articles of clothing, Han Xiao, Kashif Rasul, Roland Vollgraf (MIT licence)."""

    name = "fashion_mnist"
    URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    CLASS_NAMES = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


class Kmnist(IdxImages):
    """Kuzushiji-MNIST cursive hiragana, Tarin Clanuwat and others (CC BY-SA 4.0)."""

    name = "kmnist"
    URL = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
    CLASS_NAMES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


FAMILY = {builder.name: builder for builder in (Mnist, FashionMnist, Kmnist)}
