"""The directory of a run: created, checked and locked against other processes."""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxrnn.runs.files import read_json

Check = Callable[[Mapping[str, Any]], None]


def check_workdir(workdir: Path, check_same: Check, epochs: int, *, can_grow: bool) -> None:
    """Check that a run can be started, or continued, in a directory.

    Args:
      workdir: the directory, which need not exist.
      check_same: raises ``ValueError`` if the run of this ``config.json`` is another one.
      epochs: the number of epochs wanted.
      can_grow: whether a finished run may be continued with more epochs.

    Raises:
      ValueError: it can't be created, or has a run that can't be continued.
    """
    try:
        if workdir.exists() and not workdir.is_dir():
            raise ValueError(f"--workdir {workdir} is a file; give a directory")
        if (workdir / "config.json").exists():
            _check_resumption(workdir, check_same, epochs, can_grow=can_grow)
        elif (workdir / "checkpoints").exists():
            raise ValueError(f"--workdir {workdir} has checkpoints but no config.json")
        ancestor = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long, a directory that can't be searched
        raise ValueError(f"--workdir {workdir} cannot be used: {error.strerror}") from error
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir {workdir} cannot be written: no permission in {ancestor}")


def _check_resumption(workdir: Path, check_same: Check, epochs: int, *, can_grow: bool) -> None:
    try:
        check_same(read_json(workdir / "config.json"))
    except ValueError as error:
        raise ValueError(f"--workdir {workdir}: {error}") from error
    if (workdir / "results.json").exists():
        done = read_json(workdir / "results.json").get("epochs")
        if not isinstance(done, int) or done >= epochs:
            raise ValueError(
                f"--workdir {workdir} holds a finished run of {done} epochs; "
                + ("raise --epochs to continue it, or " if can_grow else "")
                + "choose another directory"
            )


@contextlib.contextmanager
def open_workdir(workdir: Path | None, name: str, check: Callable[[Path], None]) -> Iterator[Path]:
    """Create the directory of a run, or open an existing one, and lock it.

    If the ``with`` block fails before it writes anything, nothing is left behind.

    Args:
      workdir: the directory; None for ``runs/NAME-DATE-TIME``.
      name: see above.
      check: called with the directory once it is locked.
    """
    chosen = workdir or _unused_directory(name)
    made = [path for path in (chosen, *chosen.parents) if not path.exists()]
    try:
        # Only a directory that was asked for may exist already.
        chosen.mkdir(parents=True, exist_ok=workdir is not None)
        with _lock(chosen):
            check(chosen)  # again, as another process may have used it meanwhile
            for path in chosen.glob(".*-*"):  # left by a process that was killed while writing
                if re.fullmatch(r"\.[\w-]+\.(json|csv|png)-\d+", path.name):
                    path.unlink()
            yield chosen
    except OSError as error:
        raise OSError(f"--workdir {chosen} cannot be used: {error.strerror or error}") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not empty, unless the run wrote nothing
                path.rmdir()


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[None]:
    """Lock a directory; raises ``BlockingIOError`` if another process has locked it."""
    descriptor = os.open(workdir, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError):  # of fcntl, which only Unix has
            import fcntl

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(error.errno, "another process is using it") from error
        yield
    finally:
        os.close(descriptor)


def _unused_directory(name: str) -> Path:
    """``runs/NAME-DATE-TIME``, with a number if that exists."""
    stem = Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    numbered = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not path.exists())
