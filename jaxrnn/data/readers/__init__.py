"""Builders: tfds datasets, prepared and opened without TensorFlow."""

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from jaxrnn.data.readers.contents import read_idx_folder, read_image_folder, read_npz
from jaxrnn.data.readers.mnist import FAMILY, LabelledImages, builder_of

log = logging.getLogger("jaxrnn")

__all__ = ["FAMILY", "LabelledImages", "damaged", "find_builder", "prepare"]


def find_builder(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    archives: str | os.PathLike[str] | None = None,
) -> tfds.core.DatasetBuilder:
    """Find the tfds builder of a dataset, which may not be prepared yet; see :func:`prepare`.

    Args:
      name: ``mnist``, ``fashion_mnist`` or ``kmnist`` for the library's own
        :class:`LabelledImages`; ``idx`` for the files in ``archives``; a ``.npz`` file as Keras
        stores data sets; a directory of images by class; or any other name as tfds writes it,
        ``name``, ``name/config`` or ``name:version``.
      data_dir: directory of prepared datasets; by default tfds's, ``~/tensorflow_datasets`` or
        ``$TFDS_DATA_DIR``.
      archives: directory with the IDX files of a dataset of the MNIST family, or of any other. They
        are read here, even if the data has been prepared before.

    Raises:
      ValueError: there is no such dataset; a file is damaged; or ``archives`` is given for a
        dataset that has none.
      FileNotFoundError: a file is missing.
      ImportError: tfds needs a package that is not installed.
    """
    data_dir = data_dir or _default_data_dir()
    if name.lower() in FAMILY:
        return _of_family(FAMILY[name.lower()], data_dir, archives)
    if name.lower() == "idx":
        if archives is None:
            raise ValueError("name 'idx' needs archives (--archives), a directory of IDX files")
        return builder_of("idx", read_idx_folder(Path(archives)), data_dir)
    if archives is not None:
        known = ", ".join(["idx", *FAMILY])
        raise ValueError(f"archives are read for {known} only, not for {name!r}")
    path = Path(name).expanduser()
    if path.suffix == ".npz":
        return builder_of("npz", read_npz(path), data_dir)
    if len(path.parts) > 1 and path.is_dir():
        return builder_of("images", read_image_folder(path), data_dir)
    try:
        with _quiet():  # tfds may print a banner
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


def _of_family(
    kind: type[LabelledImages], data_dir: Any, archives: str | os.PathLike[str] | None
) -> LabelledImages:
    """The builder of a dataset of the MNIST family, or of other files under its name."""
    contents = None
    if archives is not None:
        contents = read_idx_folder(Path(archives), kind.CLASS_NAMES)
        if not kind.publishes(contents):
            log.warning("the files in %s are not those published as %s", archives, kind.name)
            return builder_of(kind.name, contents, data_dir)
    try:
        return kind(data_dir=data_dir, contents=contents)
    except Exception as error:  # it reads what was prepared before
        raise ValueError(
            f"the prepared {kind.name} in {data_dir} is damaged ({_first_line(error)}); delete it, "
            "and it will be prepared again"
        ) from error


def _default_data_dir() -> Path:
    """tfds's data_dir or, where that can't be made, a temporary directory of this user."""
    directory = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        directory = directory.expanduser()
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        user = os.getuid() if hasattr(os, "getuid") else ""
        temporary = Path(tempfile.gettempdir(), f"tensorflow_datasets-{user}")
        log.warning("%s cannot be made; preparing data in %s instead", directory, temporary)
        return temporary
    return directory


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
            with _quiet(isinstance(builder, LabelledImages) and not builder.downloads):
                builder.download_and_prepare(file_format="array_record")
        except ImportError as error:
            raise ImportError(_missing_package(builder.name, error)) from error
        except Exception as error:  # tfds and the packages below it raise many kinds
            # If another process finished first, its directory is there and all is well.
            if not builder.data_path.exists():
                raise OSError(
                    f"{builder.name!r} could not be prepared in {builder.data_dir_root}: "
                    f"{_first_line(error)}; data_dir (--data-dir) chooses another directory"
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


class _WithoutThread(io.TextIOBase):
    """Standard output without what the current thread writes to it."""

    def __init__(self) -> None:
        self._stdout, self._thread = sys.stdout, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread and self._stdout is not None:
            self._stdout.write(text)
        return len(text)


_quiet_lock = threading.RLock()  # threads must restore standard output in reverse order


@contextlib.contextmanager
def _quiet(quiet: bool = True) -> Iterator[None]:
    """Silence tfds's progress bars and messages, in this thread, if nothing is downloaded."""
    if not quiet:
        yield
        return
    with _quiet_lock:
        active = tqdm_utils._active
        tfds.display_progress_bar(False)
        try:
            with contextlib.redirect_stdout(_WithoutThread()):
                yield
        finally:
            tfds.display_progress_bar(active)
