"""tfds builders: those of the MNIST family, and reading any without TensorFlow."""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from jaxrnn.data.readers.arrays import Arrays, Images
from jaxrnn.data.readers.files import IDX_NAMES, find_idx, read_idx_files
from jaxrnn.files import first_line

_AT_ONCE = 4096  # examples that are decoded and in memory together


class LabelledImages(FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Labelled images of the MNIST family, which tfds reads without TensorFlow.

    Examples are stored in the order of the files, which the protocols of the ``tf1`` and ``keras``
    presets rely on. The builders are not registered with tfds, whose own builders of these names
    stay unchanged.
    """

    VERSION = tfds.core.Version("1.0.0")
    URL: str
    CLASS_NAMES: tuple[str, ...]
    ARCHIVES: Path | None = None  # in place of a download
    CONTENT_SHA256: tuple[str, ...] = ()  # of each decompressed file, if known
    images: Images | None = None  # set by preparation

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(names=self.CLASS_NAMES)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(
            builder=self, description=type(self).__doc__, features=features,
            supervised_keys=("image", "label"), disable_shuffling=True,
        )  # fmt: skip

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Write one file per split, much faster than tfds, which encodes example by example."""
        from array_record.python.array_record_module import ArrayRecordWriter  # not on Windows

        urls = {role: self.URL + name for role, name in IDX_NAMES.items()}
        paths = find_idx(self.ARCHIVES) if self.ARCHIVES else dl_manager.download(urls)
        self.images, splits = read_idx_files(paths, self.CLASS_NAMES), []
        white, affixes = np.full((28, 28, 1), 255, np.uint8), []
        for label in range(len(self.CLASS_NAMES)):  # records differ only in their pixels
            record = self.info.features.serialize_example({"image": white, "label": label})
            affixes.append(record.split(white.tobytes()))
        for split, ((images, labels),) in self.images.splits.items():
            files = self._get_filename_template(split)
            path = files.sharded_filepath(shard_index=0, num_shards=1)
            writer = ArrayRecordWriter(str(path), "group_size:16")  # small records in groups
            for image, label in zip(images, labels.tolist(), strict=True):
                writer.write(image.tobytes().join(affixes[label]))
            writer.close()
            size = path.stat().length
            splits.append(tfds.core.SplitInfo(split, [len(labels)], size, files))
        self.info.set_splits(tfds.core.SplitDict(splits))


class Mnist(LabelledImages, skip_registration=True):  # type: ignore[call-arg]
    """MNIST handwritten digits, Yann LeCun, Corinna Cortes, Christopher Burges (CC BY-SA 3.0)."""

    URL = "http://yann.lecun.com/exdb/mnist/"
    CLASS_NAMES = tuple("0123456789")
    ARCHIVES = Path(__file__).parent / "archives"
    CONTENT_SHA256 = (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    )


class FashionMnist(LabelledImages, skip_registration=True):  # type: ignore[call-arg]
    """Fashion-MNIST articles of clothing, Han Xiao, Kashif Rasul, Roland Vollgraf (MIT license)."""

    URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    CLASS_NAMES = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    CONTENT_SHA256 = (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    )


class Kmnist(LabelledImages, skip_registration=True):  # type: ignore[call-arg]
    """Kuzushiji-MNIST cursive hiragana, Tarin Clanuwat and others (CC BY-SA 4.0)."""

    URL = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
    CLASS_NAMES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


BUILDERS = {builder.name: builder for builder in (Mnist, FashionMnist, Kmnist)}


def open_builder(name: str, data_dir: Path) -> Any:
    """Return the tfds builder of a dataset of labelled images, prepared as ArrayRecord."""
    with _one_line_errors(name, data_dir):
        make = partial(tfds.builder, name)
        if name in BUILDERS:
            make = partial(BUILDERS[name], file_format="array_record")
        builder = make(data_dir=data_dir)
    match builder.info.supervised_keys, builder.info.features:
        case (str(key), str(label)), features if len(features[key].shape) >= 2 and isinstance(
            features[label], tfds.features.ClassLabel
        ):
            pass
        case _:
            raise ValueError(f"{name!r} is not a dataset of labelled images")
    with _one_line_errors(name, data_dir):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # tfds announces the download
                builder.download_and_prepare(file_format="array_record")
        except Exception:
            if not builder.data_path.exists():  # else another process was faster
                raise
        builder.info.read_from_directory(builder.data_dir)
    return builder


def decode(builder: Any, *splits: str) -> Images:
    """Decode some splits of prepared data, lazily and piece by piece."""
    keys = builder.info.supervised_keys

    def pieces(split: str) -> Iterator[Arrays]:
        with _one_line_errors(builder.name, builder.data_dir):
            source, shapes = builder.as_data_source(split), set()
            for start in range(0, len(source), _AT_ONCE):
                examples = source.__getitems__(range(start, min(start + _AT_ONCE, len(source))))
                images, labels = ([example[key] for example in examples] for key in keys)
                shapes |= {image.shape for image in images}
                if len(shapes) > 1:
                    raise ValueError(f"images differ in size: {sorted(shapes)[:2]}")
                yield Arrays(np.stack(images), np.array(labels, np.int32))

    names = builder.info.features[keys[1]].names
    return Images({split: pieces(split) for split in splits}, tuple(names))


def find_parts(
    name: str, split: str, splits: Mapping[str, tfds.core.SplitInfo]
) -> list[tuple[str, slice]]:
    """Convert a tfds split string to slices of a dataset's splits."""
    try:
        found = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"split {split!r} of {name!r}: {first_line(error)}") from error
    parts = [(part.splitname, slice(part.from_, part.to)) for part in found]
    if not any(range(splits[part].num_examples)[rows] for part, rows in parts):
        raise ValueError(f"split {split!r} of {name!r} has no examples")
    return parts


@contextlib.contextmanager
def _one_line_errors(name: str, directory: object) -> Iterator[None]:
    """Raise the errors of tfds and its dependencies, of many kinds, as errors of one line."""
    try:
        yield
    except tfds.core.DatasetNotFoundError as error:  # whose message fills a screen
        meant = re.search(r"Did you mean: .* -> (\w+)", str(error))
        hint = f"did you mean {meant[1]}?" if meant else f"try {', '.join(BUILDERS)}"
        hint = f"to read the directory of this name, write {name}/" if Path(name).is_dir() else hint
        raise ValueError(f"there is no dataset {name!r}; {hint}") from None
    except ImportError as error:
        package = error.name or first_line(error)
        raise ImportError(f"{name!r} needs a package that is not installed: {package}") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise (OSError if isinstance(error, OSError) else ValueError)(
            f"{name!r} could not be prepared in {directory}: {reason}; choose another data_dir "
            "(--data-dir) or, if the data there is damaged, delete it"
        ) from error
