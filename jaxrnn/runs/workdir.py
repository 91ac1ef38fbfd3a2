"""The directory of a run: checked, created, locked against other processes, and restored."""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxrnn.files import read_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.processes import from_first, is_first
from jaxrnn.training.history import History, mean_history
from jaxrnn.training.state import TrainState

Check = Callable[..., None]


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
        if workdir.is_symlink() and not workdir.exists():
            raise ValueError(
                f"--workdir {workdir} is a link to {workdir.readlink()}, which is missing"
            )
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
        results = read_json(workdir / "results.json")
        done, early = results.get("epochs"), results.get("stopped_early")
        if early:
            raise ValueError(
                f"--workdir {workdir} holds a finished run, which --patience stopped after epoch "
                f"{done}; choose another directory"
            )
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
    opened = False
    try:
        # Only a directory that was asked for may exist already.
        chosen.mkdir(parents=True, exist_ok=workdir is not None)
        with _lock(chosen):
            check(chosen)  # again, as another process may have used it meanwhile
            for path in chosen.glob(".*-*"):  # left by a process that was killed while writing
                if re.fullmatch(r"\.[\w-]+\.(json|csv|png)-\d+", path.name):
                    path.unlink()
            opened = True
            yield chosen
    except OSError as error:
        if opened:
            raise
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


def restore(
    workdir: Path, checkpoints: Checkpoints, state: TrainState, check_same: Check
) -> tuple[TrainState, Any, jax.Array] | None:
    """Restore the state, history and root key of the last checkpoint; None if there is none.

    Raises:
      ValueError: every checkpoint is damaged or of another configuration; or there is none, though
        the run was past its second epoch.
    """

    def template(description: Mapping[str, Any]) -> TrainState:
        check_same(description["config"], any_epochs=True)
        return state

    restored = checkpoints.restore(template)
    epochs = len(mean_history(restored[1])) if restored else 0
    if from_first(lambda: epochs) != epochs:
        raise ValueError(
            f"process {jax.process_index()} found epoch {epochs} in {workdir}, unlike the first "
            "process; all of them need the same directory"
        )
    curves = workdir / "history.csv"
    # The second epoch may be recorded before the first is on disk; the third is not.
    further = curves.exists() and len(History.from_csv(curves)) > 2
    if not restored and (further or (workdir / "results.json").exists()):
        raise ValueError(
            f"--workdir {workdir} holds a run without its checkpoints; choose another directory"
        )
    return restored


def rewrite_history(workdir: Path, history: Any, epochs: int) -> None:
    """Make the files agree with the checkpoint, as the run may have been past it."""
    mean = mean_history(history)
    if is_first():
        mean.to_csv(workdir / "history.csv")
        if len(mean) < epochs:
            (workdir / "results.json").unlink(missing_ok=True)
