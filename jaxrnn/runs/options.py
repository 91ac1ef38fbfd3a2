"""Command-line options of a dataclass and its groups, parsed by tyro, with short names.

Causes of errors and docstrings come from private modules of tyro, so pyproject.toml pins it.
"""

import dataclasses
import difflib
import functools
import itertools
import os
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from tyro import _docstrings
from tyro import _errors as errors
from tyro.conf import Positional, Suppress

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
Workdir = Positional[Annotated[Path, tyro.conf.arg(metavar="WORKDIR")]]


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


def complete(words: Sequence[str], kind: type) -> tuple[list[str], dict[str, type]]:
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
        if not word.startswith("--") or name == "help":
            completed.append(word)
            continue
        if not (found := find(name, known)):
            short = [full.rpartition(".")[2] for full in known]
            raise ValueError(f"unknown option {flag}{nearest(name, [*short, *known], '--')}")
        if len(found) > 1:
            meant = " or ".join(f"--{full}" for full in found)
            raise ValueError(f"ambiguous option {flag}; it may be {meant}")
        if not (groups := groups_of(known[found[0]])):
            completed.append(f"--{found[0]}{equals}{value}")
        elif (choice := value or next(queue, "")) in groups:
            chosen[name.replace("-", "_")] = groups[choice]
        else:
            hint = nearest(choice, groups)
            raise ValueError(f"unknown {name} {choice!r}{hint}; there are {', '.join(groups)}")
    return completed, chosen


def options_of(kind: type, prefix: str = "") -> dict[str, object]:
    """Return the type of each option by its full name; None for the negation of a flag."""
    hints, known = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], field.name.replace("_", "-")
        groups, markers, option = groups_of(hint), get_args(field.type), prefix + name
        if not (hint in groups.values() or Suppress in markers or Positional in markers):
            known[option] = hint
        if hint is bool:
            known[f"{prefix}no-{name}"] = None
        for group in groups.values():
            known |= options_of(group, f"{option}.")
    return known


def groups_of(hint: object) -> dict[str, type]:
    """Return the groups among which an option of this type chooses, by name."""
    parts = (hint, *get_args(hint))
    groups = [p for p in parts if isinstance(p, type) and dataclasses.is_dataclass(p)]
    return {group.__name__.lower(): group for group in groups}


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
            if groups := groups_of(known[full]):
                value, text = type(value).__name__.lower(), f"One of {', '.join(groups)}"
            option = f"--{name if len(found) == 1 else full} {value}"
            yield f"  {option:<25} {text.partition(';')[0].rstrip('.')}"
    yield "  --seeds 1                 Number of runs of each configuration, with consecutive seeds"
    yield "  --help all                all options, which may be given with or without their group"
    yield "  --tyro-write-completion   bash FILE or zsh FILE: write a script for shell completion"


_COMPLETION = """\
{name}() {{ {command} "$@"; }}
_{name}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  if [[ $word == -* ]]; then
    case ${{COMP_WORDS[1]}} in
{options}
    esac
  elif ((COMP_CWORD == 1)); then
    words="{first}"
  else
    case ${{COMP_WORDS[COMP_CWORD-1]}} in
{values}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
[[ -z ${{ZSH_VERSION-}} ]] || {{
  autoload -U +X compinit bashcompinit
  whence compdef > /dev/null || compinit
  bashcompinit
}}
complete -o default -F _{name} {name}
"""  # without a match, file names are completed


def completion(
    name: str, command: str, presets: Iterable[str], train: type, verbs: Mapping[str, type]
) -> str:
    """Return a script for bash and zsh that defines a function for a command, with completion.

    tyro's own scripts know neither presets nor options without their group, and complete
    ``python`` instead of a page. ``train`` and ``verbs`` are dataclasses of options.
    """
    options, values = {}, {"sweep": " ".join(presets)}
    for verb, kind in {**verbs, "*": train}.items():
        known, flags = options_of(kind), []
        for full, hint in known.items():
            short = full.rpartition(".")[2]
            if verb != "*" and short == "workdir":
                continue  # the verbs take it as an argument
            names = [f"--{n}" for n in dict.fromkeys([full, short]) if len(find(n, known)) == 1]
            flags += names
            literals = (part for part in (hint, *get_args(hint)) if get_origin(part) is Literal)
            if choices := [*groups_of(hint), *map(str, itertools.chain(*map(get_args, literals)))]:
                values["|".join(names)] = " ".join(choices)
        options[verb] = " ".join(flags)
    return _COMPLETION.format(
        name=name,
        command=command,
        options=_cases(options),
        first=" ".join([*presets, *USAGES]),
        values=_cases(values),
    )


def _cases(words: Mapping[str, str]) -> str:
    """Return the branches of a shell's case command that assign words to complete."""
    return "\n".join(f'      {pattern}) words="{given}" ;;' for pattern, given in words.items())
