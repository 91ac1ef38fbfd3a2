"""The folder of a run: made, held against other processes, and written atomically."""

import contextlib
import io
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.configuration import Config, check_configuration, is_more, may_grow
from jaxrnn.checkpoints import read_json
from jaxrnn.history import write_atomically


def check_workdir(config: Config, workdir: Path) -> None:
    """Raise ``ValueError`` for a work dir that cannot be made, or holds a run that cannot go on."""
    try:
        if workdir.exists() and not workdir.is_dir():
            raise ValueError(f"--workdir {workdir} is a file; name a folder")
        if (workdir / "config.json").exists():
            check_resumption(config, workdir)
        elif (workdir / "checkpoints").exists():
            raise ValueError(f"--workdir {workdir} holds checkpoints but no config.json")
        ancestor = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise ValueError(f"--workdir {workdir} cannot be used: {error.strerror}") from error
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir {workdir} cannot be written: {ancestor} does not allow it")


def check_resumption(config: Config, workdir: Path) -> None:
    """Raise ``ValueError`` unless the run in a work dir is this one, and not at its end."""
    try:
        check_configuration(config, read_json(workdir / "config.json"))
    except ValueError as error:
        raise ValueError(f"--workdir {workdir}: {error}") from error
    if (workdir / "results.json").exists():
        epochs = read_json(workdir / "results.json").get("epochs")
        if not is_more(config.epochs, epochs):
            raise ValueError(
                f"--workdir {workdir} holds a finished run of {epochs} epochs; "
                + ("raise --epochs to go on with it, or " if may_grow(config) else "")
                + "name a new folder"
            )


@contextlib.contextmanager
def open_workdir(config: Config) -> Iterator[Path]:
    """Make the folder of the run, or take the one that is there, and hold it.

    Where what is done inside for the first time fails, nothing is left behind.
    """
    workdir = config.workdir or unused_folder(config.preset)
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    try:
        # Only a folder that was named may be there already.
        workdir.mkdir(parents=True, exist_ok=config.workdir is not None)
        with only_process_in(workdir):
            check_workdir(config, workdir)  # again: another process may have been at work in it
            for path in workdir.glob(".*-*"):  # of a process that was killed while it wrote
                if re.fullmatch(r"\.[\w-]+\.(json|csv|png)-\d+", path.name):
                    path.unlink()
            yield workdir
    except OSError as error:
        raise OSError(f"--workdir {workdir} cannot be used: {error.strerror or error}") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is empty only if nothing came of the run
                path.rmdir()


@contextlib.contextmanager
def only_process_in(workdir: Path) -> Iterator[None]:
    """Hold the work dir against other processes.

    Raises:
      BlockingIOError: one of them is at work in it.
    """
    folder = os.open(workdir, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError):  # of fcntl, which only Unix has
            import fcntl

            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(error.errno, "another process is at work in it") from error
        yield
    finally:
        os.close(folder)


def unused_folder(preset: str) -> Path:
    """``runs/mnist_rnn/PRESET-DATE-TIME``, with a number where that is another run's."""
    stem = Path("runs", "mnist_rnn", f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    numbered = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not path.exists())


def save(figure: Any, path: Path) -> None:
    """Write a picture, atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of indented JSON, atomically; a number that is not finite is null."""
    write_atomically(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
