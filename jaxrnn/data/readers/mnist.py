"""tfds builders of the MNIST family, without TensorFlow and, for MNIST, without a network."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.proto import tf_example_pb2

from jaxrnn.data.readers.contents import (
    STANDARD_NAMES,
    Contents,
    read_idx_files,
    read_idx_folder,
)
from jaxrnn.data.readers.records import Records, write_records

BUNDLED_ARCHIVES = Path(__file__).parent / "archives"
_LABEL = b"\n\x05label\x12\x05\x1a\x03\n\x01"  # precedes the label in a stored example


class LabelledImages(FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Labelled images of one size, such as those of the MNIST family.

    Examples keep the order of the files, which the protocols of the ``tf1`` and ``keras`` presets
    rely on, and are stored as ArrayRecord, which ``as_data_source`` reads without TensorFlow.
    Pixels are stored as raw bytes instead of PNG, so that reading them is a copy.

    The builders are not registered with tfds, whose own builders of these names stay unchanged.

    Args:
      contents: the images and labels. By default those of the bundled archives, if the package has
        them (MNIST), otherwise those that tfds downloads.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[Mapping[str, str]] = {"1.0.0": "File order, pixels as raw bytes."}

    URL: ClassVar[str] = ""
    CLASS_NAMES: ClassVar[tuple[str, ...]]
    SHAPE: ClassVar[tuple[int, ...]] = (28, 28, 1)
    ARCHIVES: ClassVar[Path | None] = None
    # SHA-256 of the decompressed content of each file, so that recompressed archives pass.
    CONTENT_SHA256: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(skip_registration=True, **kwargs)

    def __init__(self, *, contents: Contents | None = None, **kwargs: Any):
        self._contents = contents
        super().__init__(**kwargs)

    @property
    def downloads(self) -> bool:
        """Whether preparation needs a network."""
        return self._contents is None and self.ARCHIVES is None

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(
            shape=self.SHAPE, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
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

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Write one file per split, faster than tfds, which encodes every example by itself."""
        if self.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise ValueError('this builder supports file_format="array_record" only')
        splits = []
        for name, (images, labels) in self._contents_of(dl_manager).splits.items():
            template = self._get_filename_template(name)
            path = template.sharded_filepath(shard_index=0, num_shards=1)
            size = write_records(path, images, labels)
            splits.append(
                tfds.core.SplitInfo(
                    name=name,
                    shard_lengths=[len(labels)],
                    num_bytes=size,
                    filename_template=template,
                )
            )
        self.info.set_splits(tfds.core.SplitDict(splits))

    def _contents_of(self, dl_manager: tfds.download.DownloadManager) -> Contents:
        if self._contents is not None:
            return self._contents
        if self.ARCHIVES:
            return read_idx_folder(self.ARCHIVES, self.CLASS_NAMES)
        # tfds verifies downloads against checksums.tsv beside this module.
        urls = {role: self.URL + name for role, name in STANDARD_NAMES.items()}
        return read_idx_files(dl_manager.download(urls), self.CLASS_NAMES)

    @classmethod
    def publishes(cls, contents: Contents) -> bool:
        """Whether these are the files that the authors of the dataset have published."""
        for role, name in STANDARD_NAMES.items():
            if cls.CONTENT_SHA256:
                same = contents.sha256.get(role) == cls.CONTENT_SHA256[role]
            else:
                with contents.paths[role].open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                same = found == cls.url_infos[cls.URL + name].checksum
            if not same:
                return False
        return True

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Read a prepared split: images (N, 28, 28) uint8 and labels (N,) int32."""
        records = self.records(split)
        return self.parse(records.read(np.arange(len(records))))

    def records(self, split: str) -> Records:
        """Random access to the raw records of a prepared split."""
        self.as_data_source(split)  # raises a clear error if the split cannot be read
        return Records(self.info.splits[split].file_instructions)

    def parse(self, records: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Decode raw records, one or more: images (N, height, width, …) uint8, labels (N,) int32.

        The result is that of ``as_data_source``, several times faster: tfds decodes each example
        for any features, whereas these records differ in known positions only.
        """
        shape = self.SHAPE[:2] if self.SHAPE[2:] == (1,) else self.SHAPE
        image = _features(records[0])["image"].bytes_list.value[0]
        start = records[0].index(image)
        stop = start + len(image)
        label = records[0].find(_LABEL) + len(_LABEL)
        known = label >= len(_LABEL) and len(image) == math.prod(shape)
        if known and len({len(record) for record in records}) == 1:
            table = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
            ends = sorted([0, start, stop, label, label + 1, table.shape[1]])
            same = (
                table[:, slice(*between)] for between in zip(ends[::2], ends[1::2], strict=True)
            )
            if all((part == part[0]).all() for part in same):
                images = np.ascontiguousarray(table[:, start:stop])
                return images.reshape(-1, *shape), table[:, label].astype(np.int32)
        # Protocol buffers may store the two features in either order, example by example.
        features = [_features(record) for record in records]
        pixels = b"".join(feature["image"].bytes_list.value[0] for feature in features)
        labels = [feature["label"].int64_list.value[0] for feature in features]
        return np.frombuffer(pixels, np.uint8).reshape(-1, *shape), np.array(labels, np.int32)


def _features(record: bytes) -> Mapping[str, Any]:
    return tf_example_pb2.Example.FromString(record).features.feature


class Mnist(LabelledImages):
    """MNIST handwritten digits, Yann LeCun, Corinna Cortes, Christopher Burges (CC BY-SA 3.0)."""

    name = "mnist"
    URL = "http://yann.lecun.com/exdb/mnist/"
    CLASS_NAMES = tuple("0123456789")
    ARCHIVES = BUNDLED_ARCHIVES
    CONTENT_SHA256: ClassVar[Mapping[str, str]] = dict(
        zip(
            STANDARD_NAMES,
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            strict=True,
        )
    )


class FashionMnist(LabelledImages):
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
    CONTENT_SHA256: ClassVar[Mapping[str, str]] = dict(
        zip(
            STANDARD_NAMES,
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            strict=True,
        )
    )


class Kmnist(LabelledImages):
    """Kuzushiji-MNIST cursive hiragana, Tarin Clanuwat and others (CC BY-SA 4.0)."""

    name = "kmnist"
    URL = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
    CLASS_NAMES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


FAMILY = {builder.name: builder for builder in (Mnist, FashionMnist, Kmnist)}


def builder_of(name: str, contents: Contents, data_dir: Any) -> LabelledImages:
    """A builder of images that nobody has published under this name.

    What it prepares is named by its contents, and never mistaken for another dataset.
    """
    images, _ = contents.splits["train"]
    attributes = {
        "name": f"{name}_{contents.digest}",
        "CLASS_NAMES": contents.class_names,
        "SHAPE": (*images.shape[1:3], math.prod(images.shape[3:])),
        "__module__": __name__,
        "__doc__": "Labelled images from files.",
    }
    return type("OwnImages", (LabelledImages,), attributes)(contents=contents, data_dir=data_dir)
