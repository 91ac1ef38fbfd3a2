"""Atomic file writes, and JSON that is read without trust."""

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pydantic_core
from pydantic import TypeAdapter, ValidationError

Json: TypeAlias = dict[str, Any]
"""A JSON object."""

TEMPORARY = ".jaxrnn"
"""Suffix of files that are being written."""

_OBJECT = TypeAdapter(Json)


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replace a file as a whole: at any moment, even after a crash, it is the old or the new one.

    Raises:
      OSError: the directory can't be written or is full; the old file is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Json) -> None:
    """Write indented JSON, atomically; numbers that are not finite become null."""
    write_atomically(path, pydantic_core.to_json(content, indent=2, inf_nan_mode="null") + b"\n")


def write_csv(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Json]) -> None:
    """Write a header and rows, atomically; values missing from a row are left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def write_figure(path: Path, figure: Any) -> None:
    """Write a picture as PNG, atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def read_json(path: Path) -> Json:
    """Read a file that holds one JSON object.

    Raises:
      ValueError: it holds something else.
    """
    try:
        return _OBJECT.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {error.errors()[0]['msg']}") from error


def read_json_or_none(path: Path) -> Json | None:
    """Return the JSON object in a file, or None if it is missing or damaged."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None


def local_path(option: str, path: str | Path) -> Path:
    """Convert to a path, with ``~`` replaced by the home directory.

    Raises:
      ValueError: it is an empty string, or a URL, such as gs://bucket/runs.
    """
    if not str(path).strip():
        raise ValueError(f"--{option} is empty; is a shell variable unset?")
    if scheme := re.match(r"([a-z][a-z0-9+.-]+):/", str(path)):
        raise ValueError(f"--{option} must be a local directory; got one of {scheme[1]}://")
    return Path(path).expanduser()


def first_line(error: BaseException) -> str:
    """Return the first line of an error, cut if it is long."""
    return (next(iter(str(error).strip().splitlines()), "") or type(error).__name__)[:300]
