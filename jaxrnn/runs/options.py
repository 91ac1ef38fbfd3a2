"""Options: those of a dataclass and its groups, parsed by tyro, with short names."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

Workdir = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="WORKDIR")]]


def parse(kind: Any, default: Any, words: list[str], prog: str, description: str = "") -> Any:
    """Parse options with tyro; errors are raised as ``ValueError`` of one line."""
    words = _expand(words, kind)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), _terminal():
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


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Make tyro respect NO_COLOR, and assume at least 40 columns; with 1 it never returns."""
    changes = {"TERM": "dumb"} if os.environ.get("NO_COLOR") else {}
    if shutil.get_terminal_size().columns < 40:
        changes["COLUMNS"] = "40"
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
                hint = nearest(choice, choices[name])
                raise ValueError(f"unknown {name} {choice!r}{hint}; there are {known}")
            expanded.insert(0, f"{name}:{choice}")  # tyro's way to choose one of several groups
        elif short.count(name) == 1:
            expanded.append(f"--{names[short.index(name)]}{equals}{value}")
        elif name in short:
            meant = " or ".join(f"--{known}" for known in names if known.endswith(f".{name}"))
            raise ValueError(f"ambiguous option {flag}; it may be {meant}")
        else:
            raise ValueError(f"unknown option {flag}{nearest(name, [*short, *names], '--')}")
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


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """A question after the known name that is most like this one; empty if none is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
