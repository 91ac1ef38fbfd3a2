"""The directory of a run: checked, created, locked against other processes, and restored."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxrnn.files import read_json
from jaxrnn.runs.checkpoints import Checkpoints, Restored
from jaxrnn.runs.processes import from_first, is_first
from jaxrnn.training.history import History
from jaxrnn.training.state import TrainState

Check = Callable[..., None]


def check_workdir(workdir: Path, check_same: Check, epochs: int, *, can_grow: bool) -> None:
    """Check that a run can be started, or continued, in a directory.

    Args:
      workdir: directory, which need not exist.
      check_same: raises ``ValueError`` if the run of a ``config.json`` is another one.
      epochs: number of epochs wanted.
      can_grow: whether a finished run may be continued with more epochs.

    Raises:
      ValueError: it can't be used, or holds a run that can't be continued.
    """
    option = f"--workdir {workdir}"
    try:
        if workdir.is_symlink() and not workdir.exists():
            raise ValueError(f"{option} is a link to {workdir.readlink()}, which is missing")
        if workdir.exists() and not workdir.is_dir():
            raise ValueError(f"{option} is a file; give a directory")
        if (workdir / "sweep.json").exists():
            raise ValueError(f"{option} holds a sweep; choose another directory")
        if (workdir / "config.json").exists():
            _check_resumption(workdir, check_same, epochs, can_grow=can_grow)
        elif (workdir / "checkpoints").exists():
            raise ValueError(f"{option} has checkpoints but no config.json")
    except OSError as error:  # a name that is too long, a directory that can't be searched
        raise ValueError(f"{option} cannot be used: {error.strerror}") from error


def _check_resumption(workdir: Path, check_same: Check, epochs: int, *, can_grow: bool) -> None:
    try:
        check_same(read_json(workdir / "config.json"))
    except ValueError as error:
        raise ValueError(f"--workdir {workdir}: {error}") from error
    if not (workdir / "results.json").exists():
        return
    results = read_json(workdir / "results.json")
    done, finished = results.get("epochs"), f"--workdir {workdir} holds a finished run"
    if results.get("stopped_early"):
        raise ValueError(
            f"{finished}, which --patience stopped after epoch {done}; choose another directory"
        )
    if not isinstance(done, int) or done >= epochs:
        more = "raise --epochs to continue it, or " if can_grow else ""
        raise ValueError(f"{finished} of {done} epochs; {more}choose another directory")


@contextlib.contextmanager
def open_workdir(workdir: Path | None, name: str, check: Callable[[Path], None]) -> Iterator[Path]:
    """Create the directory of a run, or open an existing one, and lock it.

    If it was created and is empty at the end of the ``with`` block, it is removed.

    Args:
      workdir: directory; None for ``runs/NAME-DATE-TIME``.
      name: see above.
      check: called with the directory when it is locked, as another process may have used it.

    Raises:
      OSError: the directory can't be created, or another process uses it.
    """
    chosen = workdir or _unused_directory(name)
    made = [path for path in (chosen, *chosen.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        try:
            # Only a directory that was asked for may exist already.
            chosen.mkdir(parents=True, exist_ok=workdir is not None)
            descriptor = os.open(chosen, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            with contextlib.suppress(ImportError):  # of fcntl, which only Unix has
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            busy = isinstance(error, BlockingIOError)
            reason = "another process is using it" if busy else error.strerror
            raise OSError(f"--workdir {chosen} cannot be used: {reason}") from error
        check(chosen)
        for path in chosen.glob(".*.*-*[0-9]"):  # left by a process that was killed while writing
            path.unlink()
        yield chosen


def _remove_empty(directories: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):  # of the first one that is not empty
        for path in directories:
            path.rmdir()


def _unused_directory(name: str) -> Path:
    stem = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


def restore(
    workdir: Path, checkpoints: Checkpoints, state: TrainState, check_same: Check
) -> Restored | None:
    """Restore the state, history and root key of the last checkpoint; None if there is none.

    Raises:
      ValueError: all checkpoints are damaged or of another configuration, or there is none though
        the run was past its second epoch; or not all processes find the same.
    """

    def template(description: Mapping[str, Any]) -> TrainState:
        check_same(description["config"], any_epochs=True)
        return state

    restored = checkpoints.restore(template)
    epochs = len(restored[1]) if restored else 0
    if from_first(lambda: epochs) != epochs:
        raise ValueError(
            f"process {jax.process_index()} found epoch {epochs} in {workdir}, unlike the first "
            "process; all of them need the same directory"
        )
    if restored is None:
        curves = workdir / "history.csv"
        recorded = len(History.from_csv(curves)) if curves.exists() else 0
        # The second epoch may be recorded before the first is on disk; the third is not.
        if recorded > 2 or (workdir / "results.json").exists():
            lost = "holds a run without its checkpoints; choose another directory"
            raise ValueError(f"--workdir {workdir} {lost}")
    return restored


def rewrite_history(workdir: Path, history: History, epochs: int) -> None:
    """Make the files agree with the checkpoint, as the run may have been past it."""
    if is_first():
        history.to_csv(workdir / "history.csv")
        if len(history) < epochs:
            (workdir / "results.json").unlink(missing_ok=True)
