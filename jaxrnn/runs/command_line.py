"""The command line of a page: presets, verbs and one-line errors."""

import atexit
import gc
import io
import itertools
import os
import platform
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import flax
import jax
import tyro

from jaxrnn.runs.config import Experiment
from jaxrnn.runs.interruptions import Advice, NonFiniteLossError
from jaxrnn.runs.options import USAGES, complete, completion, nearest, parse, short_help
from jaxrnn.runs.processes import LostProcessesError, end_at_once
from jaxrnn.runs.run import run
from jaxrnn.runs.sweep import sweep
from jaxrnn.runs.verbs import VERBS, options_class, page_name, run_verb
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
    """Run the command line of a page; ``--help`` shows presets, commands and options.

    Every option of every group is a flag, ``--model.hidden 64``, or without its group where that is
    unambiguous, ``--hidden 64``. Errors are one line each, with status 2 for invalid input and 1
    for failures in training; the status is 141 if the output is closed, as by ``| head``.

    Args:
      presets: experiments by name, all of one class.
      default: the preset to train if none is named.
      description: shown by ``--help``; usually ``__doc__`` of the page.
      arguments: the command-line arguments; by default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    Experiment.is_program = arguments is None
    if arguments is None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # while a page was imported
            signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.freeze()  # exempts imported modules from garbage collection
        atexit.register(gc.freeze)  # avoids collections at exit, when all memory is freed anyway
    for name in ("stdout", "stderr"):  # any text can be printed, even in a limited encoding
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        elif stream is None:  # closed, with its number free for the next open file
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        if words[:1] == ["--tyro-write-completion"]:
            _write_completion(presets, presets[default], words[1:])
        elif words and words[0] in VERBS:
            run_verb(presets[default], words[0], words[1:])
        elif words == ["--version"]:
            versions = f"JAX {jax.__version__}, Flax {flax.__version__}"
            print(f"jaxrnn {__version__} ({versions}, Python {platform.python_version()})")
        else:
            _train(presets, default, words, _about(description or "", presets[default].program))
        print(end="", flush=True)
        return
    except KeyboardInterrupt:
        if arguments is not None:
            raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)  # ends the process at once, with all its threads
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # for what Python writes at exit
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        status = _BROKEN_PIPE
    except _ERRORS as error:
        status = _report(error)
    except Exception:
        traceback.print_exc()
        status = 1
    end_at_once(status)
    raise SystemExit(status)


def _about(description: str, command: str) -> str:
    """Adapt a docstring to this command; in a wheel, pages are in ``jaxrnn.experiments``."""
    return description.replace(command.replace(" jaxrnn.", " "), command).strip()


def _report(error: Exception) -> int:
    """Print a line for each error, and return the exit status."""
    message, notes = str(error), getattr(error, "__notes__", [])
    advice = [note for note in notes if isinstance(note, Advice)]
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"  # without its number
    for line in "; ".join([message, *advice]).splitlines() or [""]:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 1 if advice or isinstance(error, NonFiniteLossError | LostProcessesError) else 2


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Several runs of one experiment, each in a directory of its own."""

    seeds: int = 1
    """Number of runs of each configuration, with consecutive seeds."""
    vary: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Values to try, as in learning_rate=1e-3,3e-3 hidden=64,150; every combination is run."""
    jobs: int = 1
    """Number of runs to train at once, each in a process with its share of the cores."""
    pictures: bool = False
    """Also draw the pictures of every run."""


def _train(
    presets: Mapping[str, Experiment], default: str, words: list[str], description: str
) -> None:
    """Train a preset, changed by the options that follow it, or a sweep of it."""
    sweeping = words[:1] == ["sweep"]
    words = words[sweeping:]
    preset = words.pop(0) if words and not words[0].startswith("-") else default
    if preset not in presets:
        hint = nearest(preset, [*presets, *USAGES])
        raise ValueError(f"unknown preset {preset!r}{hint}; there are {', '.join(presets)}")
    if {"-h", "--help"} & {*words} and words[-1] != "all":
        print(*short_help(presets, preset, description), sep="\n")
        return
    experiment, options = configured(presets[preset], words, description)
    name = f"{page_name(experiment)}/{preset}"
    if sweeping or options != Sweep():
        vary = _values(options.vary, experiment)
        sweep(experiment, name=name, **{**vars(options), "vary": vary})
    else:
        run(experiment, name=name)


def _write_completion(
    presets: Mapping[str, Experiment], page: Experiment, words: Sequence[str]
) -> None:
    """Write a script for bash or zsh that defines a command for the page, with completion."""
    if len(words) != 2 or words[0] not in ("bash", "zsh"):
        got = shlex.join(words)
        raise ValueError(f"--tyro-write-completion expects bash FILE, or zsh FILE; got {got!r}")
    shell, path = words[0], Path(words[1]).expanduser().absolute()
    name = re.sub(r"\W", "_", page_name(page))
    program = shlex.quote(str(Path(sys.argv[0]).absolute()))  # to be found from anywhere
    command = page.program.replace(f"python {shlex.quote(sys.argv[0])}", f"python {program}")
    verbs = {verb: options_class(page, verb) for verb in VERBS}
    path.write_text(completion(name, command, presets, _with_sweep(page), verbs), "utf-8")
    advice = f"to define the command {name}, with completion, add this line to ~/.{shell}rc"
    print(f"{advice}: source {shlex.quote(str(path))}")


def configured(
    page: Experiment, words: Sequence[str], description: str = ""
) -> tuple[Experiment, Sweep]:
    """Apply command-line options to an experiment; return it and the options of a sweep."""
    kind = _with_sweep(page)
    commands = (f"{page.program} {verb} {usage}" for verb, usage in USAGES.items())
    about = "\n\n".join([description, *commands])
    parsed = vars(parse(kind, kind(**vars(page)), words, f"{page.program} [PRESET]", about))
    options = parsed.pop("sweep")
    return type(page)(**parsed), options


def _with_sweep(page: Experiment) -> Any:
    """Return the class of an experiment with the options of a sweep."""
    sweep = [("sweep", Sweep, Sweep())]
    return make_dataclass("Page", sweep, bases=(type(page),), frozen=True, kw_only=True)


def _values(vary: Iterable[Iterable[str]], page: Experiment) -> dict[str, list[Any]]:
    """Parse ``--vary``: return the values of each option by its dotted name."""
    found: dict[str, list[Any]] = {}
    for word in itertools.chain(*vary):
        flag, _, listed = "".join(complete([f"--{word}"], type(page))[0]).partition("=")
        if not listed:
            raise ValueError(f"--vary expects OPTION=VALUE,VALUE,…; got {word!r}")
        name = flag.removeprefix("--").replace("-", "_")
        for value in listed.split(","):
            words, flags = [f"{flag}={value}"], tyro.conf.FlagConversionOff
            changed = parse(type(page), page, words, "", "", flags)
            found.setdefault(name, []).append(attrgetter(name)(changed))
    return found
