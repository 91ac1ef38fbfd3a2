"""Where examples come from: prepared tfds datasets, opened without TensorFlow."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from jaxrnn.datasets.mnist import FAMILY, IdxImages


def open_builder(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    archives: str | os.PathLike[str] | None = None,
) -> tfds.core.DatasetBuilder:
    """A tfds builder whose data is prepared as ArrayRecord; prepares it where it is not.

    ``mnist``, ``fashion_mnist`` and ``kmnist`` are the library's own builders (:class:`IdxImages`);
    any other name is tfds's. Preparation writes to a folder of its own and renames it at the end:
    the data is there whole or not at all, and two processes that prepare at once do no harm, as the
    second to finish drops its copy.

    Args:
      name: dataset name, as tfds writes it: ``name``, ``name/config`` or ``name:version``.
      data_dir: where prepared datasets are kept; by default tfds's own ``~/tensorflow_datasets`` or
        ``$TFDS_DATA_DIR``.
      archives: folder with the four archives of a dataset of the MNIST family.

    Raises:
      ValueError: there is no such dataset; an archive is damaged; or ``archives`` is given for a
        dataset outside the family.
      FileNotFoundError: an archive is missing.
      ImportError: tfds needs a package that is not installed (often TensorFlow) to prepare it.
      OSError: ``data_dir`` cannot be written, or the download failed.
    """
    if name in FAMILY:
        builder: Any = FAMILY[name](data_dir=data_dir, archives=archives)
        if archives is not None:
            builder.verify_archives()  # also where prepared data would hide that they are bad
    elif archives is not None:
        raise ValueError(f"archives are read for {', '.join(FAMILY)} only, not for {name!r}")
    else:
        builder = _tfds_builder(name, data_dir)

    if not builder.data_path.exists():
        try:
            _prepare(builder)
        except ImportError as error:
            raise ImportError(
                f"preparing {name!r} needs the package {error.name!r}, which is not installed: "
                f"pip install {error.name}"
            ) from error
        except OSError as error:
            raise OSError(
                error.errno,
                f"{name!r} could not be prepared in {builder.data_dir_root}: "
                f"{error.strerror or error}; choose another data dir, or give the archives",
            ) from error
    return builder


def _tfds_builder(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        # tfds's message is a screenful; of it, what it takes the name for is worth passing on.
        meant = re.search(r"Did you mean: .* -> (\w+)", str(error))
        hint = f"did you mean {meant[1]}?" if meant else f"try {', '.join(FAMILY)}"
        raise ValueError(f"there is no dataset {name!r}; {hint}") from None
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{name!r} names no dataset: {str(error).splitlines()[0]}") from error
    except ImportError as error:
        raise ImportError(f"{name!r} needs the package {error.name!r}: pip install it") from error


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    local = isinstance(builder, IdxImages) and builder.archives is not None
    try:
        with _quiet() if local else contextlib.nullcontext():
            builder.download_and_prepare(file_format="array_record")
    except OSError:
        # Another process finished first: its folder is in the way of the final rename.
        if not builder.data_path.exists():
            raise
        builder.info.read_from_directory(builder.data_dir)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars and lines that tfds prints: nothing is downloaded and it takes seconds."""
    active = tqdm_utils._active
    tfds.display_progress_bar(False)
    try:
        with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
            yield
    finally:
        tfds.display_progress_bar(active)
