"""Docstrings and types of the package as the reference of the site shows them.

An extension of griffe, which reads the package without importing it.
"""

import logging
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import fields
from textwrap import dedent, indent
from typing import Any

import griffe

LOG = logging.getLogger("mkdocs.plugins.site")  # the build is strict: a warning fails it
ROLE = re.compile(r":(?:class|func|meth|mod):`([\w.]+)`")
FLAX_DATACLASSES = {"struct.dataclass", "nn.Module", "nn.RNNCellBase"}
Rooms = dict[griffe.Module, dict[str, griffe.Object]]


def rooms_of(package: griffe.Module) -> Rooms:
    """Return the modules that list public names, in ``__all__``, and what these name."""
    modules = [thing for thing in _all(package) if thing.is_module and thing.exports]
    return {module: {name: _named(module[name]) for name in module.exports} for module in modules}


class Notation(griffe.Extension):
    """Translate docstrings to Markdown, and expand private type aliases."""

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Mark Flax's dataclasses as dataclasses, so that griffe shows how to construct them."""
        if {*map(str, cls.bases), *(str(d.value) for d in cls.decorators)} & FLAX_DATACLASSES:
            dataclass = griffe.ExprName("dataclasses.dataclass")
            cls.decorators.append(griffe.Decorator(dataclass, lineno=None, endlineno=None))

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Translate the whole package."""
        rooms = rooms_of(pkg)
        public = {thing.canonical_path for names in rooms.values() for thing in names.values()}
        public |= {room.path for room in rooms}
        for cls in [thing for thing in _all(pkg) if thing.is_class]:
            _adopt(cls)
        for cls in [thing for thing in _all(pkg) if thing.is_class]:
            _list_fields(cls)
        for thing in _all(pkg):
            if thing.docstring:
                thing.docstring.value = _markdown(thing.docstring.value, thing, public)
            if thing.is_function:
                thing.returns = _expanded(thing.returns, pkg, public)
            for typed in thing.parameters if thing.is_function else [thing] * thing.is_attribute:
                typed.annotation = _expanded(typed.annotation, pkg, public)


def _all(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if not member.is_alias:
            yield from _all(member)


def _named(thing: griffe.Object) -> griffe.Object:
    """Return the function if griffe found the module of the same name instead."""
    return thing.members.get(thing.name, thing) if thing.is_module else thing


def _adopt(cls: griffe.Class) -> None:
    """Give a class the members of its private bases, which the reference doesn't show."""
    for base in cls.resolved_bases:
        if base.name.startswith("_"):
            adopted = {name: copy(member) for name, member in base.members.items()}
            for member in adopted.values():
                member.parent, member.docstring = cls, copy(member.docstring)
            cls.members = {**adopted, **cls.members}


def _list_fields(cls: griffe.Class) -> None:
    """Move the docstrings of fields into a list in that of the class."""
    members = [m for m in cls.members.values() if m.is_attribute and "property" not in m.labels]
    described = [member for member in members if member.docstring]
    if described and cls.docstring:
        lines = (f"{m.name}: {m.docstring.value}".replace("\n", "\n  ") for m in described)
        cls.docstring.value += "\n\nAttributes:\n" + indent("\n".join(lines), "  ")
        for member in described:
            member.docstring = None


def _markdown(text: str, thing: griffe.Object, public: set[str]) -> str:
    """Translate roles, equations, examples and references."""
    text = ROLE.sub(lambda role: _link(role[1], thing, public), text)
    text = re.sub(r"\.\. math::\s+((?:.+\n?)+)", r"\\[\1\\]\n", text)
    text = re.sub(r":math:`([^`]+)`", r"\\(\1\\)", text)
    text = re.sub(r"^(>>> .+(?:\n.+)*)", r"```pycon\n\1\n```", text, flags=re.M)
    block = re.compile(r"^References:\n((?:  .+\n?)+)", re.M)
    return block.sub(lambda found: f"**References:**\n\n{dedent(found[1])}", text)


def _link(name: str, thing: griffe.Object, public: set[str]) -> str:
    """Return a link to what a role names, or the name alone if that is not in the reference."""
    first, *rest = name.split(".")
    try:
        path = name if first == "jaxrnn" else ".".join([thing.resolve(first), *rest])
        target = _named(thing.modules_collection[path])
    except (KeyError, griffe.NameResolutionError):
        LOG.warning("%s refers to %s, which does not exist", thing.path, name)
        return f"`{name}`"
    shown = target if target.is_module or target.parent.is_module else target.parent
    is_public = shown.canonical_path in public
    return f"[`{name}`][{target.canonical_path}]" if is_public else f"`{name}`"


def _expanded(expression: Any, package: griffe.Module, public: set[str]) -> Any:
    """Replace private type aliases by their definitions, which give shapes."""
    if isinstance(expression, list):
        return [_expanded(part, package, public) for part in expression]
    if not isinstance(expression, griffe.Expr):
        return expression
    if isinstance(expression, griffe.ExprName):
        path = expression.canonical_path
        alias = package.modules_collection[path] if path.startswith("jaxrnn.") else None
        shown = alias is None or not alias.is_attribute or path in public
        if shown or isinstance(alias.value, griffe.ExprCall):  # such as a type variable
            return expression
        return _expanded(alias.value, package, public)
    if isinstance(expression, griffe.ExprSubscript) and "jaxtyping" in expression.canonical_path:
        array, axes = expression.slice.elements
        expression.slice.elements = [array, repr(str(axes).strip("'"))]  # one name lost its quotes
    parts = {field.name: getattr(expression, field.name) for field in fields(expression)}
    inner = {name: part for name, part in parts.items() if name != "parent"}
    inner = {name: _expanded(part, package, public) for name, part in inner.items()}
    return type(expression)(**{**parts, **inner})
