"""Builders: tfds datasets, prepared and opened without TensorFlow."""

import contextlib
import io
import os
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from jaxrnn.data.builders.mnist import FAMILY, IdxImages

__all__ = ["FAMILY", "IdxImages", "damaged", "find_builder", "prepare"]


def find_builder(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    archives: str | os.PathLike[str] | None = None,
) -> tfds.core.DatasetBuilder:
    """Find the tfds builder of a dataset, which may not be prepared yet; see :func:`prepare`.

    Args:
      name: ``mnist``, ``fashion_mnist`` or ``kmnist`` for the library's own :class:`IdxImages`; any
        other name as tfds writes it, ``name``, ``name/config`` or ``name:version``.
      data_dir: directory of prepared datasets; by default tfds's, ``~/tensorflow_datasets`` or
        ``$TFDS_DATA_DIR``.
      archives: directory with the four archives of a dataset of the MNIST family. They are verified
        here, even if the data has been prepared before.

    Raises:
      ValueError: there is no such dataset; an archive is damaged; or ``archives`` is given for a
        dataset outside the family.
      FileNotFoundError: an archive is missing.
      ImportError: tfds needs a package that is not installed.
    """
    if name.lower() in FAMILY:
        try:
            builder = FAMILY[name.lower()](data_dir=data_dir, archives=archives)
        except Exception as error:  # it reads what was prepared before
            where = data_dir or "tfds's data_dir"
            raise ValueError(
                f"the prepared {name} in {where} is damaged ({_first_line(error)}); delete it, and "
                "it will be prepared again"
            ) from error
        if archives is not None:
            builder.verify_archives()
        return builder
    if archives is not None:
        raise ValueError(f"archives are read for {', '.join(FAMILY)} only, not for {name!r}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tfds may print a banner
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        # tfds's message fills a screen; its suggestion is worth passing on.
        meant = re.search(r"Did you mean: .* -> (\w+)", str(error))
        hint = f"did you mean {meant[1]}?" if meant else f"try {', '.join(FAMILY)}"
        raise ValueError(f"there is no dataset {name!r}; {hint}") from None
    except ImportError as error:
        raise ImportError(_missing_package(name, error)) from error
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{name!r} is not the name of a dataset: {_first_line(error)}") from error


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Prepare a builder's data as ArrayRecord, unless it has been prepared before.

    tfds writes to a temporary directory and renames it at the end, so the data is complete or
    absent, and two processes may prepare it at once: the second to finish discards its copy.

    Raises:
      ImportError: tfds needs a package that is not installed, often TensorFlow.
      OSError: the data_dir can't be written, or the archives can't be downloaded.
      ValueError: an archive, or the data prepared before, is damaged.
    """
    if not builder.data_path.exists():
        try:
            with _quiet(isinstance(builder, IdxImages) and builder.archives is not None):
                builder.download_and_prepare(file_format="array_record")
        except ImportError as error:
            raise ImportError(_missing_package(builder.name, error)) from error
        except Exception as error:  # tfds and the packages below it raise many kinds
            # If another process finished first, its directory is there and all is well.
            if not builder.data_path.exists():
                raise OSError(
                    f"{builder.name!r} could not be prepared in {builder.data_dir_root}: "
                    f"{_first_line(error)}"
                ) from error
    try:
        # A builder created before the data was prepared doesn't know its splits yet.
        builder.info.read_from_directory(builder.data_dir)
    except Exception as error:
        raise damaged(builder, error) from error


def damaged(builder: tfds.core.DatasetBuilder, error: Exception) -> ValueError:
    """The error to raise if prepared data can't be read."""
    return ValueError(
        f"the prepared data in {builder.data_dir} is damaged ({_first_line(error)}); delete that "
        "directory, and it will be prepared again"
    )


def _missing_package(name: str, error: ImportError) -> str:
    return f"{name!r} needs a package that is not installed: {error.name or _first_line(error)}"


def _first_line(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror or next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Silence tfds's progress bars and messages if nothing is downloaded."""
    if not quiet:
        yield
        return
    active = tqdm_utils._active
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(active)
