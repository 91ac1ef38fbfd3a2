"""The directory of a run: checked, created, locked against other processes, and restored."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax

from jaxrnn.files import Json, read_json, read_json_or_none, write_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.prepare import Prepared, check_same_data
from jaxrnn.runs.processes import from_first, is_first
from jaxrnn.training.state import TrainState


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Raise ``ValueError`` unless a directory holds nothing, or a run that can be continued.

    Files that can be recreated from a checkpoint may be damaged or missing.
    """
    if (workdir / "sweep.json").exists():
        raise ValueError("it holds a sweep; choose another directory")
    config = workdir / "config.json"
    if (stored := read_json_or_none(config)) is not None:
        experiment.check_same(stored)
    elif config.exists() and not (workdir / "checkpoints").exists():
        read_json(config)  # which raises
    if not (results := read_results(workdir)):
        return
    done, advice = results["epochs"], "choose another directory"
    if results.get("stopped_early"):
        stopped = f"which --patience stopped after epoch {done}"
        raise ValueError(f"it holds a finished run, {stopped}; {advice}")
    if done >= experiment.trainer.epochs:
        if experiment.can_grow:
            advice = f"raise --epochs to continue it, or {advice}"
        raise ValueError(f"it holds a finished run of {done} epochs; {advice}")


def read_results(workdir: Path) -> Json:
    """Return the contents of ``results.json``; empty if it is missing or damaged."""
    results = read_json_or_none(workdir / "results.json") or {}
    return results if isinstance(results.get("epochs"), int) else {}


@contextlib.contextmanager
def open_workdir(workdir: Path | None, name: str, check: Callable[[Path], None]) -> Iterator[Path]:
    """Create or open the directory of a run, by default ``runs/NAME-DATE-TIME``, and lock it.

    ``check`` is called with the locked directory, as another process may have used it. If it was
    created and is empty at the end of the ``with`` block, it is removed.
    """
    with contextlib.ExitStack() as held:
        yield Path(from_first(_open, workdir, name, check, held))


def _open(
    workdir: Path | None, name: str, check: Callable[[Path], None], held: contextlib.ExitStack
) -> str:
    stem = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    chosen = workdir or next(path for path in map(Path, names) if not path.exists())
    option = f"--workdir {chosen}"
    try:
        made = [path for path in (chosen, *chosen.parents) if not path.exists()]
        if chosen in made and chosen.is_symlink():
            raise ValueError(f"{option} is a broken link to {chosen.readlink()}")
        if chosen not in made and not chosen.is_dir():
            raise ValueError(f"{option} is a file; give a directory")
        held.callback(_remove_empty, made)
        # Only a directory that was asked for may exist already.
        chosen.mkdir(parents=True, exist_ok=workdir is not None)
        descriptor = os.open(chosen, os.O_RDONLY)
        held.callback(os.close, descriptor)
        with contextlib.suppress(ImportError):  # of fcntl, which only Unix has
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        busy = isinstance(error, BlockingIOError)
        reason = "another process is using it" if busy else error.strerror
        raise OSError(f"{option} cannot be used: {reason}") from error
    try:
        check(chosen)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    for path in chosen.glob(".*.*-*[0-9]"):  # left by a process that was killed while writing
        path.unlink()
    return str(chosen)


def _remove_empty(directories: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):  # of the first one that is not empty
        for path in directories:
            path.rmdir()


def restore(
    workdir: Path, checkpoints: Checkpoints, prepared: Prepared, experiment: Experiment
) -> Prepared:
    """Restore the last checkpoint, if there is one, and make the other files consistent with it."""

    def template(description: Json) -> TrainState:
        experiment.check_same(description["config"], any_epochs=configured)
        changed = check_same_data(description, prepared.description)
        if changed and not experiment.runtime.other_data:
            raise ValueError(
                f"the data has changed since training: {changed}; use --other-data to continue "
                "on the new data"
            )
        return prepared.state

    curves, results = workdir / "history.csv", workdir / "results.json"
    # If it is there, it was checked, and may have another number of epochs than the checkpoint.
    configured = read_json_or_none(workdir / "config.json") is not None
    if restored := checkpoints.restore(template):
        prepared = prepared._replace(state=restored[0], history=restored[1])
    history = prepared.history
    if from_first(len, history) != len(history):
        raise ValueError(
            f"process {jax.process_index()} found epoch {len(history)} in {workdir}, unlike the "
            "first process; all of them need the same directory"
        )
    # The second epoch may be recorded before the first is on disk; the third is not.
    if not history and (
        results.exists() or (curves.exists() and len(curves.read_bytes().splitlines()) > 3)
    ):
        lost = "holds a run without its checkpoints; choose another directory"
        raise ValueError(f"--workdir {workdir} {lost}")
    if is_first():
        write_json(workdir / "config.json", experiment.to_json())
        if history:  # the run may have been past its last checkpoint
            history.to_csv(curves)
        if len(history) < experiment.trainer.epochs:
            results.unlink(missing_ok=True)
    return prepared
