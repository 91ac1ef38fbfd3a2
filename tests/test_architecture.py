"""The layout of the project, its types, and the versions that it states."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jaxrnn.version import __version__

ROOT = Path(__file__).parents[1]
# What the modules of a room may import besides their own room and those that serve all.
BELOW = {
    "nn": set(),
    "data": set(),
    "training": {"nn", "data"},
    "plotting": {"nn", "data", "training"},
    "export": {"nn", "data", "training"},
    "runs": {"nn", "data", "training", "plotting", "export"},
}
SHARED = {"groups", "files", "version"}
DEFERRED = (  # slow
    *("jaxrnn.data.readers.builders", "jaxrnn.nn.nnx", "jaxrnn.plotting", "jaxrnn.export"),
    "jaxrnn.runs.verbs",
)


def parsed(folder):
    """The syntax trees of modules, by path from the root of the project."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT): ast.parse(path.read_text("utf-8")) for path in paths}


MODULES = parsed("jaxrnn")


def imports(tree):
    """What a syntax tree imports from this project, by full name."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "jaxrnn imports by full names, which these tests read"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in ("jaxrnn", "experiments"))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_imports_go_one_way():
    for path, tree in MODULES.items():
        if path.parts[1] in BELOW:
            rooms = {path.parts[1], *BELOW[path.parts[1]], *SHARED}
            wrong = {name for name in imports(tree) if f"{name}.".split(".")[1] not in rooms}
            assert wrong == set(), path


def test_no_import_is_hidden_in_a_function():
    for path, tree in MODULES.items():
        hidden = {name for function in functions(tree) for name in imports(function)}
        assert {name for name in hidden if not name.startswith(DEFERRED)} == set(), path


def test_imports_make_no_circle():
    modules = {".".join(path.with_suffix("").parts): tree for path, tree in MODULES.items()}
    modules = {name.removesuffix(".__init__"): {*imports(modules[name])} for name in modules}
    waiting = {  # what is imported from a module counts as that module
        module: {name if name in modules else name.rpartition(".")[0] for name in names}
        for module, names in modules.items()
    }
    while ready := {module for module, names in waiting.items() if not names & waiting.keys()}:
        waiting = {module: names for module, names in waiting.items() if module not in ready}
    assert waiting == {}


def test_folders_files_and_functions_are_small():
    files = Counter(path.parent for path in MODULES)
    assert {folder: number for folder, number in files.items() if number > 13} == {}
    for path, tree in {**MODULES, **parsed("experiments")}.items():
        assert len((ROOT / path).read_text("utf-8").splitlines()) <= 250, path
        for function in functions(tree):
            first = function.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) else 0
            lines = function.end_lineno - function.lineno + 1 - docstring
            assert lines <= 60, f"{path}: {function.name}"


@pytest.mark.program
def test_types():
    """A test, so that other tests run meanwhile."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_constraints_are_exact_and_name_no_index():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def test_version_is_the_same_everywhere():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert newest[1] == cited[1] == __version__
