"""The command line of a page: presets, verbs, short options and one-line errors."""

import contextlib
import dataclasses
import difflib
import io
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import tyro

from jaxrnn.runs.experiment import Experiment, RuntimeConfig
from jaxrnn.runs.fitting import NonFiniteLossError
from jaxrnn.runs.processes import LostProcessesError, Stopped, end_at_once
from jaxrnn.runs.run import Advice, run
from jaxrnn.runs.stored import evaluate_run, read_experiment

_ERRORS = (ValueError, OSError, ImportError, NonFiniteLossError, LostProcessesError)


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

    Every option of every group is a flag, ``--model.hidden 64``, or without its group where that is
    unambiguous, ``--hidden 64``. Errors are one line each, with status 2 for what the user gave and
    1 for what went wrong in training.

    Args:
      presets: experiments by name, all of one class.
      default: the preset to train if none is named.
      description: shown by ``--help``; usually ``__doc__`` of the page.
      arguments: the words of the command line; by default those of the process.
    """
    if arguments is None:  # until training handles signals there is nothing to save: end at once
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    words = list(sys.argv[1:] if arguments is None else arguments)
    page = presets[default]
    try:
        if words[:1] == ["resume"]:
            run(_resumed(page, words[1:]), name=_page_name(page))
        elif words[:1] == ["evaluate"]:
            _evaluate(page, words[1:])
        else:
            preset = words.pop(0) if words and not words[0].startswith("-") else default
            run(
                _configured(presets, preset, words, description or ""),
                name=f"{_page_name(page)}/{preset}",
            )
    except Stopped:
        raise
    except _ERRORS as error:
        notes = [note for note in getattr(error, "__notes__", []) if isinstance(note, Advice)]
        lost = isinstance(error, NonFiniteLossError | LostProcessesError)
        _fail("; ".join([str(error), *notes]), status=1 if notes or lost else 2)
    except Exception:
        traceback.print_exc()
        end_at_once(1)
        raise SystemExit(1) from None


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
            f"unknown preset {preset!r}{_nearest(preset, known)}; there are {', '.join(presets)}"
        )
    page = presets[preset]
    prog = f"{page.command} [{'|'.join(presets)}]"
    paragraphs = (
        description.strip(),
        f"{page.command} resume WORKDIR [--epochs N] [runtime options]: continue a stored run.",
        f"{page.command} evaluate WORKDIR [runtime options]: print its metrics.",
        "Options may be given without their group, as in --epochs 3 or --optimizer adam.",
    )
    return _parse(type(page), page, words, prog, "\n\n".join(paragraphs))


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
    given = _parse(Resume, default, words, f"{page.command} resume")
    trainer = dataclasses.replace(stored.trainer, epochs=given.epochs)
    return dataclasses.replace(stored, trainer=trainer, runtime=given.runtime)


def _evaluate(page: Experiment, words: list[str]) -> None:
    workdir, stored = _stored(page, "evaluate", words)
    default = Evaluate(workdir, stored.runtime)
    given = _parse(Evaluate, default, words, f"{page.command} evaluate")
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
    workdir = Path(words[0])
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


def _parse(kind: Any, default: Any, words: list[str], prog: str, description: str = "") -> Any:
    """Parse options with tyro; errors are raised as ``ValueError`` of one line."""
    words = _expand(words, kind)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                kind,
                default=default,
                args=words,
                prog=prog,
                description=description or None,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit as error:
        if not error.code:
            raise
        # tyro draws a box with a title; the message comes first, and then a rule.
        text = "\n".join(line.strip(" │") for line in printed.getvalue().splitlines())
        blocks = re.split(r"^(?:╭.*|╰.*|[─-]+)$", text, flags=re.MULTILINE)
        message = " ".join((blocks[1:] or blocks)[0].split()).removeprefix("Error parsing ")
        raise ValueError(message) from None


def _expand(words: list[str], kind: type) -> list[str]:
    """Complete options that were given without their group.

    Raises:
      ValueError: there is no such option, or several.
    """
    names, choices = _option_names(kind)
    short = [name.rpartition(".")[2] for name in names]
    expanded: list[str] = []
    queue = iter(words)
    for word in queue:
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("_", "-")
        if not word.startswith("--") or name in ("help", *names) or name.startswith("tyro-"):
            expanded.append(word)
        elif name in choices:
            choice = value or next(queue, "")
            if choice not in choices[name]:
                known = ", ".join(choices[name])
                hint = _nearest(choice, choices[name])
                raise ValueError(f"unknown {name} {choice!r}{hint}; there are {known}")
            expanded.insert(0, f"{name}:{choice}")  # tyro's way to choose one of several groups
        elif short.count(name) == 1:
            expanded.append(f"--{names[short.index(name)]}{equals}{value}")
        elif name in short:
            meant = " or ".join(f"--{known}" for known in names if known.endswith(f".{name}"))
            raise ValueError(f"ambiguous option {flag}; it may be {meant}")
        else:
            raise ValueError(f"unknown option {flag}{_nearest(name, [*short, *names], '--')}")
    return expanded


def _option_names(kind: Any, prefix: str = "") -> tuple[list[str], dict[str, list[str]]]:
    """The options of a dataclass and its groups, and the choices where there are several groups."""
    names: dict[str, None] = {}
    choices: dict[str, list[str]] = {}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], prefix + field.name.replace("_", "-")
        groups: list[Any] = [
            one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)
        ]
        for group in groups:
            names |= dict.fromkeys(_option_names(group, f"{name}.")[0])
        if len(groups) > 1:
            choices[name] = [str(group.__name__).lower() for group in groups]
        if not groups:
            negated = f"{prefix}no-{field.name.replace('_', '-')}"
            names |= dict.fromkeys([name, negated] if hint is bool else [name])
    return list(names), choices


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
