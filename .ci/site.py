"""The pages of the site; mkdocs.yml lists them, and docstrings.py translates docstrings.

A hook of MkDocs. Pages have the paths of their files in the repository, so links between files are
links between pages. Other files and directories that a page links to get pages that show them.
"""

import re
from collections.abc import Iterator
from html import unescape
from itertools import chain
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

import griffe
from docstrings import LOG, Notation, rooms_of
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([\w./-]+)[)#]")
FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.S)


class Shown(File):
    """A page that shows a notebook, another file or a directory."""

    def is_documentation_page(self) -> bool:
        """Return True, whatever the suffix."""
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the navigation, and pages for the files that they link to."""
    listed, links = [*_leaves(config.nav)], set()
    reference = _reference()
    for path in reference.keys() - listed:
        LOG.warning("the navigation of mkdocs.yml lacks %s", path)
    for path in listed:
        if path in reference:
            files.append(File.generated(config, path, content=reference[path]))
        elif path.endswith(".ipynb"):
            text, figures = MarkdownExporter().from_filename(str(ROOT / path))
            folder = path.removesuffix(".ipynb")
            text = text.replace("![png](", f"![Figure]({folder.rpartition('/')[2]}/")
            files.append(Shown.generated(config, path, content=text))
            for name, figure in figures["outputs"].items():
                files.append(File.generated(config, f"{folder}/{name}", content=figure))
        else:
            text = (ROOT / path).read_text("utf-8")
            links |= {normpath(join(dirname(path), link)) for link in LINK.findall(text)}
            files.append(File.generated(config, path, content=text))
    for path in sorted(links - {*listed}):
        if (ROOT / path).exists():
            files.append(_linked(path, config))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Write formulas as MathML, which needs no script."""

    def mathml(match: re.Match[str]) -> str:
        latex, block = unescape(match[2]), match[1] == "["
        if block:
            latex = rf"\begin{{split}}{latex}\end{{split}}"
        formula = convert(latex, display="block" if block else "inline")
        return f'<div class="formula">{formula}</div>' if block else formula

    return FORMULA.sub(mathml, html)


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        items = nav.values() if isinstance(nav, dict) else nav
        yield from chain.from_iterable(map(_leaves, items))


def _linked(path: str, config: MkDocsConfig) -> File:
    """Return a picture as it is, and a page for any other file or directory."""
    place = ROOT / path
    if place.suffix == ".png":
        return File.generated(config, path, abs_src_path=str(place))
    if place.is_dir():
        names = sorted(file.name for file in place.iterdir() if file.suffix == ".ipynb")
        text = "\n".join(f"- [{name}]({path}/{name})" for name in names)
    else:
        text = f"``` {place.suffix[1:]}\n{place.read_text('utf-8')}\n```"
    text = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n{text}\n"
    return Shown.generated(config, path, content=text, inclusion=InclusionLevel.NOT_IN_NAV)


def _reference() -> dict[str, str]:
    """Write a page for each room; names are documented in the innermost room that lists them."""
    package = griffe.load("jaxrnn", search_paths=[ROOT], extensions=griffe.Extensions(Notation()))
    rooms, pages = rooms_of(package), {}
    home = {thing.canonical_path: room for room, names in rooms.items() for thing in names.values()}
    for room, names in rooms.items():
        lines = [
            f"::: {room.path}",
            "    options: {heading_level: 1, members: false, show_root_full_path: true}",
            "",
        ]
        for name, thing in names.items():
            _check(thing)
            if home[thing.canonical_path] is room and not thing.is_module:
                lines += [f"::: {thing.path}", ""]
            elif thing.docstring:
                summary = thing.docstring.value.partition("\n")[0]
                lines.append(f"- [`{name}`][{thing.canonical_path}]: {summary}")
        pages[f"reference/{room.path}.md"] = "\n".join(lines)
    return pages


def _check(thing: griffe.Object) -> None:
    """Warn of a public name, or a public method of it, that has no docstring."""
    members = [] if thing.is_module else thing.members.values()
    for public in (thing, *(m for m in members if m.is_function and m.name[0] != "_")):
        if not public.has_docstring:
            LOG.warning("%s has no docstring", public.path)
