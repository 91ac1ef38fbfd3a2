"""The command line of a page: presets, verbs and one-line errors."""

import atexit
import gc
import io
import itertools
import os
import platform
import signal
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass
from operator import attrgetter
from typing import Any

import flax
import jax
import tyro

from jaxrnn.runs.config import Experiment, differences
from jaxrnn.runs.interruptions import Advice, NonFiniteLossError
from jaxrnn.runs.options import complete, describe_options, nearest, parse
from jaxrnn.runs.processes import LostProcessesError, end_at_once
from jaxrnn.runs.run import run
from jaxrnn.runs.sweeps import sweep
from jaxrnn.runs.verbs import VERBS, page_name, run_verb
from jaxrnn.version import __version__

_ERRORS = (ValueError, OSError, ImportError, NonFiniteLossError, LostProcessesError)
_BROKEN_PIPE = 128 + 13  # 13 is SIGPIPE, where there are signals
_USUAL = "epochs batch-size optimizer learning-rate hidden cell devices workdir seed".split()  # noqa: SIM905


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
    if arguments is None:  # end at once until training, which handles signals
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        gc.freeze()  # exempts imported modules from garbage collection
        atexit.register(gc.freeze)  # avoids collections at exit, when all memory is freed anyway
    _make_printable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in VERBS:
            run_verb(presets[default], words[0], words[1:])
        elif words == ["--version"]:
            print(
                f"jaxrnn {__version__} (JAX {jax.__version__}, Flax {flax.__version__}, "
                f"Python {platform.python_version()})"
            )
        else:
            _train(presets, default, words, (description or "").strip())
        print(end="", flush=True)
        return
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


def _make_printable() -> None:
    """Make any text printable, even without standard output or in a limited encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, with its number free for the next open file
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _report(error: Exception) -> int:
    """Print a line for each error, and return the exit status."""
    message, notes = str(error), getattr(error, "__notes__", [])
    advice = [note for note in notes if isinstance(note, Advice)]
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"  # without its number
    for line in "; ".join([message, *advice]).splitlines() or [""]:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 1 if advice or isinstance(error, NonFiniteLossError | LostProcessesError) else 2


def _train(
    presets: Mapping[str, Experiment], default: str, words: list[str], description: str
) -> None:
    """Train a preset, changed by the options that follow it, or a sweep of it."""
    sweeping = words[:1] == ["sweep"]
    words = words[sweeping:]
    preset = words.pop(0) if words and not words[0].startswith("-") else default
    if preset not in presets:
        hint = nearest(preset, [*presets, *VERBS, "sweep"])
        raise ValueError(f"unknown preset {preset!r}{hint}; there are {', '.join(presets)}")
    if {"-h", "--help"} & {*words} and words[-1] != "all":
        print(*_help(presets, preset, description), sep="\n")
        return
    experiment, options = configured(presets[preset], words, description)
    name = f"{page_name(experiment)}/{preset}"
    if not sweeping and options == Sweep():
        run(experiment, name=name)
        return
    sweep(experiment, name=name, **{**vars(options), "vary": values(experiment, *options.vary)})


def configured(
    page: Experiment, words: Sequence[str], description: str = ""
) -> tuple[Experiment, Sweep]:
    """Apply command-line options to an experiment; return it and the options of a sweep."""
    names, sweep = [field.name for field in fields(page)], ("sweep", Sweep, Sweep())
    kind = make_dataclass("Page", [sweep], bases=(type(page),), frozen=True, kw_only=True)
    default = kind(**{name: getattr(page, name) for name in names})
    text = "\n\n".join([description, *_commands(page)])
    parsed = parse(kind, default, words, f"{page.command} [PRESET]", text)
    return type(page)(**{name: getattr(parsed, name) for name in names}), parsed.sweep


def values(experiment: Experiment, *vary: Sequence[str]) -> dict[str, list[Any]]:
    """Parse ``--vary``: return the values of each option by its dotted name.

    Raises:
      ValueError: there is no such option, or no value of its type.
    """
    kind = type(experiment)
    found: dict[str, list[Any]] = {}
    for word in itertools.chain(*vary):
        flag, _, listed = "".join(complete([f"--{word}"], kind)[0]).partition("=")
        if not listed:
            raise ValueError(f"--vary expects OPTION=VALUE,VALUE,…; got {word!r}")
        name = flag.removeprefix("--").replace("-", "_")
        for value in listed.split(","):
            option = [f"{flag}={value}"]
            changed = parse(kind, experiment, option, "", "", tyro.conf.FlagConversionOff)
            found.setdefault(name, []).append(attrgetter(name)(changed))
    return found


def _commands(page: Experiment) -> list[str]:
    """Return a line of help for each verb."""
    sweep = "[PRESET] [--seeds N] [--vary OPTION=A,B,… …] [--jobs N] [options]"
    usages = {verb: usage for verb, (_, _, usage) in VERBS.items()}
    usages["sweep"] = f"{sweep}: compare several runs."
    return [f"{page.command} {verb} {usage}" for verb, usage in usages.items()]


def _help(presets: Mapping[str, Experiment], preset: str, description: str) -> Iterator[str]:
    """Yield the short help, which lists how other presets differ from the chosen one."""
    page = presets[preset]
    yield f"usage: {page.command} [PRESET] [OPTIONS]\n\n{description}".rstrip()
    yield "\npresets:"
    for name, experiment in presets.items():
        differing = differences(experiment, page).items()
        text = ", ".join(f"{option.split('.')[-1]} {value}" for option, (value, _) in differing)
        yield f"  {name:<10} {textwrap.shorten(text, 85, placeholder=' …')}".rstrip()
    yield "\nother commands:"
    for line in _commands(page):
        yield f"  {line.removeprefix(page.command).strip()}"
    yield f"\noptions, and their values in {preset}:"
    for option, text in (*describe_options(page, _USUAL), *describe_options(Sweep(), ["seeds"])):
        yield f"  {option:<25} {text}"
    yield "  --help all                all options, which may be given with or without their group"
