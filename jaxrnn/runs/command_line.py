"""The command line of a page: presets, verbs and one-line errors."""

import dataclasses
import io
import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import flax
import jax
import tyro

from jaxrnn.runs.errors import Advice, NonFiniteLossError
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.files import local_path
from jaxrnn.runs.groups import RuntimeConfig
from jaxrnn.runs.options import nearest, parse
from jaxrnn.runs.processes import LostProcessesError, Stopped, end_at_once
from jaxrnn.runs.run import run
from jaxrnn.runs.stored import evaluate_run, read_experiment
from jaxrnn.version import __version__

_ERRORS = (ValueError, OSError, ImportError, NonFiniteLossError, LostProcessesError)
_BROKEN_PIPE = 128 + 13  # 13 is SIGPIPE, where there are signals


def main(
    presets: Mapping[str, Experiment],
    *,
    default: str,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Run the command line of a page.

        python -m PAGE [PRESET] [OPTIONS]
        python -m PAGE resume WORKDIR [--epochs N] [RUNTIME OPTIONS]
        python -m PAGE evaluate WORKDIR [RUNTIME OPTIONS]
        python -m PAGE --version

    Every option of every group is a flag, ``--model.hidden 64``, or without its group where that is
    unambiguous, ``--hidden 64``. Errors are one line each, with status 2 for what the user gave and
    1 for what went wrong in training. If nobody reads the output any more, as after ``| head -1``,
    the process ends with status 141, as if by SIGPIPE.

    Args:
      presets: experiments by name, all of one class.
      default: the preset to train if none is named.
      description: shown by ``--help``; usually ``__doc__`` of the page.
      arguments: the words of the command line; by default those of the process.
    """
    if arguments is None:  # until training handles signals there is nothing to save: end at once
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _make_printable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    page = presets[default]
    try:
        if words[:1] == ["resume"]:
            run(_resumed(page, words[1:]), name=_page_name(page))
        elif words[:1] == ["evaluate"]:
            _evaluate(page, words[1:])
        elif words == ["--version"]:
            print(
                f"jaxrnn {__version__} (JAX {jax.__version__}, Flax {flax.__version__}, "
                f"Python {platform.python_version()})"
            )
        else:
            preset = words.pop(0) if words and not words[0].startswith("-") else default
            run(
                _configured(presets, preset, words, description or ""),
                name=f"{_page_name(page)}/{preset}",
            )
        print(end="", flush=True)
    except Stopped:
        raise
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # for what Python writes at its end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        end_at_once(_BROKEN_PIPE)
        raise SystemExit(_BROKEN_PIPE) from None
    except _ERRORS as error:
        notes = [note for note in getattr(error, "__notes__", []) if isinstance(note, Advice)]
        lost = isinstance(error, NonFiniteLossError | LostProcessesError)
        _fail("; ".join([_describe(error), *notes]), status=1 if notes or lost else 2)
    except Exception:
        traceback.print_exc()
        end_at_once(1)
        raise SystemExit(1) from None


def _make_printable() -> None:
    """Let everything be printed: without standard output, or one that lacks some characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, and its number free for a file that is opened next
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _describe(error: Exception) -> str:
    """What went wrong; without the number that Python puts before errors of the system."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _fail(message: str, status: int = 2) -> NoReturn:
    """End with one line for each error."""
    for line in message.splitlines() or [""]:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
    end_at_once(status)
    raise SystemExit(status)


def _page_name(page: Experiment) -> str:
    """The last part of the page's module or file name."""
    return page.command.split(maxsplit=2)[-1].removesuffix(".py").replace("/", ".").split(".")[-1]


def _configured(
    presets: Mapping[str, Experiment], preset: str, words: list[str], description: str
) -> Experiment:
    """The preset with the options that follow it."""
    if preset not in presets:
        known = [*presets, "resume", "evaluate"]
        raise ValueError(
            f"unknown preset {preset!r}{nearest(preset, known)}; there are {', '.join(presets)}"
        )
    page = presets[preset]
    prog = f"{page.command} [{'|'.join(presets)}]"
    paragraphs = (
        description.strip(),
        f"{page.command} resume WORKDIR [--epochs N] [runtime options]: continue a stored run.",
        f"{page.command} evaluate WORKDIR [runtime options]: print its metrics.",
        "Options may be given without their group, as in --epochs 3 or --optimizer adam.",
    )
    return parse(type(page), page, words, prog, "\n\n".join(paragraphs))


@dataclass(frozen=True)
class Evaluate:
    """Print the metrics of a stored run."""

    workdir: tyro.conf.Positional[Path]
    """Directory of the run."""
    runtime: RuntimeConfig


@dataclass(frozen=True)
class Resume:
    """Continue a stored run."""

    workdir: tyro.conf.Positional[Path]
    """Directory of the run."""
    epochs: int
    """Number of epochs in total."""
    runtime: RuntimeConfig


def _resumed(page: Experiment, words: list[str]) -> Experiment:
    """The experiment of a work directory, possibly with more epochs."""
    workdir, stored = _stored(page, "resume", words)
    default = Resume(workdir, stored.trainer.epochs, stored.runtime)
    given = parse(Resume, default, words, f"{page.command} resume")
    trainer = dataclasses.replace(stored.trainer, epochs=given.epochs)
    return dataclasses.replace(stored, trainer=trainer, runtime=given.runtime)


def _evaluate(page: Experiment, words: list[str]) -> None:
    workdir, stored = _stored(page, "evaluate", words)
    default = Evaluate(workdir, stored.runtime)
    given = parse(Evaluate, default, words, f"{page.command} evaluate")
    results = evaluate_run(dataclasses.replace(stored, runtime=given.runtime), workdir)
    print(f"after epoch {results.pop('epoch')}:")
    for name, value in results.items():
        print(name, *(value if isinstance(value, list) else [value]))


def _stored(page: Experiment, verb: str, words: list[str]) -> tuple[Path, Experiment]:
    """The work directory that is named first, and its experiment."""
    if {"-h", "--help"} & {*words}:
        return Path("WORKDIR"), page
    if not words or words[0].startswith("-"):
        raise ValueError(f"give the directory of a run first: {verb} WORKDIR")
    if any(re.match(r"--(runtime\.)?workdir", word) for word in words):
        raise ValueError(f"leave out --workdir: {verb} uses the directory of the run")
    workdir = local_path("workdir", Path(words[0]))
    stored = read_experiment(workdir, type(page))
    # How processes find each other belongs to one start of a run, and is not resumed.
    runtime = dataclasses.replace(
        stored.runtime,
        workdir=workdir,
        distributed=False,
        coordinator=None,
        processes=None,
        process=None,
    )
    return workdir, dataclasses.replace(stored, runtime=runtime)
