"""Where examples come from: prepared tfds datasets, opened without TensorFlow."""

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
    """The tfds builder of a dataset, which may not be prepared yet; see :func:`prepare`.

    Args:
      name: ``mnist``, ``fashion_mnist`` or ``kmnist`` for the library's own :class:`IdxImages`; any
        other name as tfds writes it, ``name``, ``name/config`` or ``name:version``.
      data_dir: where prepared datasets are kept; by default tfds's own ``~/tensorflow_datasets`` or
        ``$TFDS_DATA_DIR``.
      archives: folder with the four archives of a dataset of the MNIST family. They are verified
        here, also where prepared data would hide that they are bad.

    Raises:
      ValueError: there is no such dataset; an archive is damaged; or ``archives`` is given for a
        dataset outside the family.
      FileNotFoundError: an archive is missing.
      ImportError: tfds needs a package that is not installed.
    """
    if name.lower() in FAMILY:
        try:
            builder = FAMILY[name.lower()](data_dir=data_dir, archives=archives)
        except Exception as error:  # it reads what was prepared before, where it is there
            where = data_dir or "tfds's folder"
            raise ValueError(
                f"the prepared {name} in {where} is damaged ({_first_line(error)}); delete it, and "
                "it is prepared anew"
            ) from error
        if archives is not None:
            builder.verify_archives()
        return builder
    if archives is not None:
        raise ValueError(f"archives are read for {', '.join(FAMILY)} only, not for {name!r}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a banner where a package is missing
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        # tfds's message is a screenful; of it, what it takes the name for is worth passing on.
        meant = re.search(r"Did you mean: .* -> (\w+)", str(error))
        hint = f"did you mean {meant[1]}?" if meant else f"try {', '.join(FAMILY)}"
        raise ValueError(f"there is no dataset {name!r}; {hint}") from None
    except ImportError as error:
        raise ImportError(_missing_package(name, error)) from error
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{name!r} names no dataset: {_first_line(error)}") from error


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Prepare a builder's data as ArrayRecord, unless it is there already.

    tfds writes to a folder of its own and renames it at the end: the data is there whole or not at
    all, and two processes that prepare at once do no harm, as the second to finish drops its copy.

    Raises:
      ImportError: tfds needs a package that is not installed, often TensorFlow.
      OSError: the data dir cannot be written, or the archives could not be had.
      ValueError: an archive, or what was prepared before, is damaged.
    """
    if not builder.data_path.exists():
        try:
            with _quiet(isinstance(builder, IdxImages) and builder.archives is not None):
                builder.download_and_prepare(file_format="array_record")
        except ImportError as error:
            raise ImportError(_missing_package(builder.name, error)) from error
        except Exception as error:  # tfds and what it calls have many kinds
            # One of them is no error: another process finished first, and its folder is in the way.
            if not builder.data_path.exists():
                raise OSError(
                    f"{builder.name!r} could not be prepared in {builder.data_dir_root}: "
                    f"{_first_line(error)}"
                ) from error
    try:
        # A builder made before the data was there, by this or another process, knows no splits yet.
        builder.info.read_from_directory(builder.data_dir)
    except Exception as error:
        raise damaged(builder, error) from error


def damaged(builder: tfds.core.DatasetBuilder, error: Exception) -> ValueError:
    """What to raise where prepared data cannot be read."""
    return ValueError(
        f"the prepared data in {builder.data_dir} is damaged ({_first_line(error)}); delete that "
        "folder, and it is prepared anew"
    )


def _missing_package(name: str, error: ImportError) -> str:
    return f"{name!r} needs a package that is not installed: {error.name or _first_line(error)}"


def _first_line(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror or next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Silence tfds's bars and lines where nothing is downloaded and it takes seconds."""
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
