"""Command-line options of a dataclass and its groups, parsed by tyro, with short names.

Causes of errors and docstrings come from private modules of tyro, so pyproject.toml pins it.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import operator
import os
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro
from tyro import _docstrings
from tyro import _errors as errors

from jaxrnn.runs.config import Experiment, differences

USAGES = {
    "resume": "WORKDIR [--epochs N] [runtime options]: continue a stored run.",
    "evaluate": "WORKDIR [runtime options]: print the metrics of a stored run.",
    "predict": "WORKDIR FILE…: print the predictions of a stored run for files.",
    "export": "WORKDIR OUT: write the network for other programs.",
    "sweep": "[PRESET] [--seeds N] [--vary OPTION=A,B,… …] [--jobs N] [options]: compare several "
    "runs.",
}
_USUAL = "epochs batch-size optimizer learning-rate hidden cell devices workdir seed".split()  # noqa: SIM905
Workdir = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="WORKDIR")]]


def parse(
    kind: Any, default: Any, words: Sequence[str], prog: str, about: str = "", *markers: Any
) -> Any:
    """Parse options of a dataclass, which may be given without their group, as in ``--hidden 64``.

    ``markers`` are those of ``tyro.conf``. Raises ``ValueError`` if an option is unknown or
    ambiguous, or its value has another type.
    """
    words, chosen = complete(words, kind)
    for name, group in chosen.items():
        if type(getattr(default, name)) is not group:
            default = dataclasses.replace(default, **{name: group()})
    tyro._experimental_options["ansi_codes"] = not os.environ.get("NO_COLOR")
    config, text = (tyro.conf.AvoidSubcommands, *markers), about or None
    with errors.on_parse_error(_refuse):
        return tyro.cli(
            kind, default=default, args=words, prog=prog, description=text, config=config
        )


def _refuse(event: errors.ParseErrorEvent) -> None:
    """Raise the error that tyro is about to print, in one line."""
    argument = getattr(event, "argument", None)
    name = f"{argument.display_name()}: " if argument else ""
    match event:
        case errors.InvalidChoice(value=value, choices=choices):
            hint = nearest(value, choices)
            raise ValueError(f"{name}must be one of {', '.join(choices)}; got {value!r}{hint}")
        case errors.InstantiationFailure(message=message):
            raise ValueError(name + message.splitlines()[0] if name else message)
        case errors.BadValue():
            raise ValueError(f"{name}the value is missing")
        case errors.UnrecognizedArgs(tokens=[token, *_]) if token.startswith("--") and "." in token:
            raise ValueError(f"{token} is an option of another {token.partition('.')[0]}")
        case errors.UnrecognizedArgs(tokens=tokens):
            raise ValueError(f"unexpected argument: {' '.join(tokens)}")


def complete(words: Sequence[str], kind: Any) -> tuple[list[str], dict[str, Any]]:
    """Complete options that were given without their group; return the words, and chosen groups.

    Options such as ``--optimizer muon`` choose groups, by field. Raises as :func:`parse`.
    """
    for before, word in itertools.pairwise(["an argument", *words]):
        if not word.strip() or (word.startswith("--") and word.endswith("=")):
            name = word.strip("= ") or (before if before.startswith("--") else "an argument")
            raise ValueError(f"{name} is empty; is a shell variable unset?")
    known, completed, chosen = options_of(kind), [], {}
    queue = iter(words)
    for word in queue:
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("_", "-")
        if not word.startswith("--") or name == "help" or name.startswith("tyro-"):
            completed.append(word)
            continue
        if not (found := find(name, known)):
            short = [full.rpartition(".")[2] for full in known]
            raise ValueError(f"unknown option {flag}{nearest(name, [*short, *known], '--')}")
        if len(found) > 1:
            meant = " or ".join(f"--{full}" for full in found)
            raise ValueError(f"ambiguous option {flag}; it may be {meant}")
        if not (groups := known[found[0]]):
            completed.append(f"--{found[0]}{equals}{value}")
        elif (choice := value or next(queue, "")) in groups:
            chosen[name.replace("-", "_")] = groups[choice]
        else:
            hint = nearest(choice, groups)
            raise ValueError(f"unknown {name} {choice!r}{hint}; there are {', '.join(groups)}")
    return completed, chosen


def options_of(kind: Any, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the full names of options and, for those that choose a group, the groups by name."""
    hints, known = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        hint, option = hints[field.name], field.name.replace("_", "-")
        parts: list[Any] = [p for p in (hint, *get_args(hint)) if dataclasses.is_dataclass(p)]
        groups = {part.__name__.lower(): part for part in parts}
        if get_args(hint) if groups else tyro.conf.Suppress not in get_args(field.type):
            known[prefix + option] = groups
        if hint is bool:
            known[f"{prefix}no-{option}"] = {}
        for group in groups.values():
            known |= options_of(group, f"{prefix}{option}.")
    return known


def find(name: str, known: Iterable[str]) -> list[str]:
    """Return the full names that a name, with or without its group, may stand for."""
    return [name] if name in known else [full for full in known if full.endswith(f".{name}")]


def nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    """Return a "did you mean" hint for a misspelled name; empty if nothing is similar."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def short_help(presets: Mapping[str, Experiment], preset: str, description: str) -> Iterator[str]:
    """Yield the lines of the help, which lists how other presets differ from the chosen one."""
    page = presets[preset]
    yield f"usage: {page.program} [PRESET] [OPTIONS]\n\n{description}".rstrip()
    yield "\npresets:"
    for name, experiment in presets.items():
        differing = differences(experiment, page).items()
        text = ", ".join(f"{option.split('.')[-1]} {value}" for option, (value, _) in differing)
        yield f"  {name:<10} {textwrap.shorten(text, 85, placeholder=' …')}".rstrip()
    yield "\nother commands:"
    yield from (f"  {verb} {usage}" for verb, usage in USAGES.items())
    yield f"\noptions, and their values in {preset}:"
    known = options_of(type(page))
    for name in _USUAL:
        for full in (found := find(name, known)):
            *path, field = full.replace("-", "_").split(".")
            group = functools.reduce(getattr, path, page)
            value = getattr(group, field)
            text = _docstrings.get_field_docstring(type(group), field, ()) or ""
            if known[full]:
                value, text = type(value).__name__.lower(), f"One of {', '.join(known[full])}"
            option = f"--{name if len(found) == 1 else full} {value}"
            yield f"  {option:<25} {text.partition(';')[0].rstrip('.')}"
    yield "  --seeds 1                 Number of runs of each configuration, with consecutive seeds"
    yield "  --help all                all options, which may be given with or without their group"
    yield "  --tyro-write-completion   bash FILE or zsh FILE: write a script for shell completion"


def completion(
    shell: str,
    name: str,
    command: str,
    presets: Iterable[str],
    train: Any,
    verbs: Mapping[str, Any],
) -> str:
    """Return a script that defines a shell function for a command, with tyro's completion.

    tyro's own script knows neither presets nor options without their group, and completes
    ``python`` instead of a page. ``train`` and ``verbs`` are dataclasses of options.
    """
    kinds = {"train": train, **verbs}
    parts = [Annotated[kind, tyro.conf.subcommand(verb)] for verb, kind in kinds.items()]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        words = ["--tyro-print-completion", shell]
        union: Any = functools.reduce(operator.or_, parts)
        tyro.cli(union, args=words, prog=name, config=(tyro.conf.AvoidSubcommands,))
    script = printed.getvalue()
    (found,) = re.findall(r"^COMPLETION_SPEC = (.*)$", script, flags=re.MULTILINE)
    spec = ast.literal_eval(found)
    for verb, part in spec["subcommands"].items():
        known, given = options_of(kinds[verb]), part["options"]
        listed = {flag for option in given for flag in option["flags"]}
        for full, groups in known.items():  # those of other groups, and those that choose a group
            if f"--{full}" not in listed:
                choices = {"type": "choice", "choices": [*groups]} if groups else {"type": "value"}
                given.append({"flags": [f"--{full}"], "description": full, **choices})
        for option in given:
            short = [flag.rpartition(".")[2] for flag in option["flags"] if "." in flag]
            option["flags"] += [f"--{flag}" for flag in short if len(find(flag, known)) == 1]
            option["description"] = " ".join(option["description"].split())
    trained = spec["subcommands"].pop("train")
    trains = {preset: {**trained, "description": "preset"} for preset in presets}
    sweep = {**trained, "description": "sweep", "subcommands": trains}
    spec |= {**trained, "subcommands": {**trains, **spec["subcommands"], "sweep": sweep}}
    # Options only after a hyphen, so that presets and files are not lost among them.
    only = "[[ -z $completion || ( $completion == -* && {} != -* ) ]] || {}"
    for old, new in (
        (found, repr(spec)),
        ("complete -F", "complete -o default -F"),  # file names where nothing else fits
        (add := 'matches+=("$completion")', only.format("${COMP_WORDS[COMP_CWORD]}", add)),
        (add := "completion_array+=", only.format("$PREFIX", add)),
        (" completion_array\n}", " completion_array || _files\n}"),
        (f'_tyro_{name} "$@"\n', f"compdef _tyro_{name} {name}\n"),
    ):
        script = script.replace(old, new)
    return f'{script}\n{name}() {{ {command} "$@"; }}\n'
