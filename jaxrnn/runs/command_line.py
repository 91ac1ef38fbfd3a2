"""The command line of a page: presets, verbs and one-line errors."""

import atexit
import gc
import io
import os
import platform
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn

import flax
import jax

from jaxrnn.runs.config import Experiment
from jaxrnn.runs.errors import Advice, NonFiniteLossError
from jaxrnn.runs.options import nearest, parse
from jaxrnn.runs.processes import LostProcessesError, Stopped, end_at_once
from jaxrnn.runs.run import run
from jaxrnn.runs.verbs import VERBS, describe_verbs, page_name
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
        python -m PAGE predict WORKDIR FILE…
        python -m PAGE export WORKDIR OUT
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
        gc.freeze()  # exempts what was imported from garbage collection
        atexit.register(gc.freeze)  # avoids collections at exit, when all memory is freed anyway
    _make_printable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    page, succeeded = presets[default], True
    try:
        if words and words[0] in VERBS:
            succeeded = VERBS[words[0]](page, words[1:])
        elif words == ["--version"]:
            print(
                f"jaxrnn {__version__} (JAX {jax.__version__}, Flax {flax.__version__}, "
                f"Python {platform.python_version()})"
            )
        else:
            preset = words.pop(0) if words and not words[0].startswith("-") else default
            run(
                _configured(presets, preset, words, description or ""),
                name=f"{page_name(page)}/{preset}",
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
    if not succeeded:
        raise SystemExit(1)


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


def _configured(
    presets: Mapping[str, Experiment], preset: str, words: list[str], description: str
) -> Experiment:
    """The preset with the options that follow it."""
    if preset not in presets:
        known = [*presets, *VERBS]
        raise ValueError(
            f"unknown preset {preset!r}{nearest(preset, known)}; there are {', '.join(presets)}"
        )
    page = presets[preset]
    prog = f"{page.command} [{'|'.join(presets)}]"
    paragraphs = (
        description.strip(),
        *describe_verbs(page.command),
        "Options may be given without their group, as in --epochs 3 or --optimizer adam.",
    )
    return parse(type(page), page, words, prog, "\n\n".join(paragraphs))
