"""The short help of a page: presets, commands and the usual options."""

import functools
import textwrap
from collections.abc import Iterator, Mapping

from tyro import _docstrings

from jaxrnn.runs.config import Experiment, differences
from jaxrnn.runs.options import find, options_of

USAGES = {
    "resume": "WORKDIR [--epochs N] [runtime options]: continue a stored run.",
    "evaluate": "WORKDIR [runtime options]: print its metrics.",
    "predict": "WORKDIR FILE…: print what it predicts for files.",
    "export": "WORKDIR OUT: write the network for other programs.",
    "sweep": "[PRESET] [--seeds N] [--vary OPTION=A,B,… …] [--jobs N] [options]: compare several "
    "runs.",
}
_USUAL = "epochs batch-size optimizer learning-rate hidden cell devices workdir seed".split()  # noqa: SIM905


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
