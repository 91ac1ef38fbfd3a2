"""Every verb and the README's code run with the wheel, in what ``make mnist`` alone installs."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxrnn
from jaxrnn.runs.verbs import VERBS
from tests.shared import as_users_do

pytestmark = pytest.mark.program

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

FILES = [
    *("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"),
    *("jaxrnn", "experiments"),
]
TRAIN = (
    "keras --epochs 1 --train train[:640] --validation None --test test[:100] --hidden 12 --workdir"
)
VERBS_RUN = {
    "resume": "resume run --epochs 2",
    "evaluate": "evaluate run",
    "predict": "predict run digit.png",
    "export": "export run out --page",
    "sweep": f"sweep {TRAIN} two --seeds 2",
}
RUN = """
import contextlib, runpy, sys

for name in sys.argv[1:]:
    with open(f"{name}.txt", "w") as printed, contextlib.redirect_stdout(printed):
        sys.argv = [f"{name}.py", *open(f"{name}.words").read().split()]
        with contextlib.suppress(SystemExit):
            runpy.run_path(f"{name}.py", run_name="__main__")
"""
LIST = """
import contextlib, io, pathlib, runpy

with contextlib.redirect_stdout(io.StringIO()) as printed:
    runpy.run_module("jaxrnn", run_name="__main__")
text = printed.getvalue()
pathlib.Path("images.py").write_text(text[text.index('\"\"\"'):])
print(text)
"""
RUN_PAGE = """
import runpy, sys

runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
VERBS_IN_TURN = f"""
import jaxrnn
from jaxrnn.experiments.mnist_rnn import PRESETS

for words in {[f"{TRAIN} run", *VERBS_RUN.values()]}:
    jaxrnn.main(PRESETS, default="fast", arguments=words.split())
"""
TYPED = """
import jaxrnn

history: jaxrnn.History = jaxrnn.load_run("run").history
config: jaxrnn.RNNConfig = jaxrnn.RNNConfig(hidden=150)
config = jaxrnn.RNNConfig(hidden="many")
"""
TYPES_OF_JAXRNN_ALONE = """
[mypy]
follow_imports = skip
[mypy-jaxrnn.*]
follow_imports = silent
"""


def blocks():
    """The code of both READMEs; that of the experiments continues from the first."""
    both = README + (ROOT / "experiments" / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", both, re.DOTALL)
    assert len([line for line in first.splitlines() if line]) <= 25
    assert (first.count("train[:48000]"), second.count('"train"')) == (1, 1)
    code = first.replace("train[:48000]", "train[:9000]")
    return code + second.replace('"train"', '"train[:1500]"') + "print(int(state.step))"


def page():
    (page,) = re.findall(r"```\n(from dataclasses.*?)```", README, re.DOTALL)
    assert len([line for line in page.splitlines() if line]) <= 25
    return page


def environment(cache):
    """Install what ``make mnist`` does, less the bytecode of modules that nothing imports.

    It is kept until Python or the files that say what is installed change.
    """
    content = sys.version.encode() + b"".join((ROOT / name).read_bytes() for name in FILES[:3])
    folder = cache.mkdir(f"base-{sha256(content).hexdigest()[:16]}")
    for other in {*folder.parent.glob("base-*")} - {folder}:
        shutil.rmtree(other)
    for name in FILES:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(ROOT / name)
    options = "--quiet --constraint constraints.txt --no-compile-bytecode --editable"
    command = ["make", ".venv/.installed", f"OPTIONS={options}"]
    subprocess.run(command, cwd=folder, env=plain(), check=True)
    return folder / ".venv" / "bin" / "python"


def plain():
    """The variables of a shell in which no environment is active."""
    active = ("VIRTUAL_ENV", "PYTHONPATH")
    return {name: value for name, value in as_users_do().items() if name not in active}


def install_wheel(python, folder):
    """Install the wheel in place of the repository; return the names in the wheel and the sdist."""
    uv = python.with_name("uv")
    subprocess.run([uv, "build", "--quiet", "--out-dir", folder, ROOT], check=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    options = ["--quiet", "--no-deps", "--reinstall", "--python", python]
    subprocess.run([uv, "pip", "install", *options, wheel], check=True)
    with zipfile.ZipFile(wheel) as shipped, tarfile.open(sdist) as source:
        return {*shipped.namelist()}, {name.partition("/")[2] for name in source.getnames()}


def files(folder):
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}


def assert_complete(wheel, sdist):
    """All of the library and the pages are there, and no tests, caches or benchmarks."""
    pages = re.compile(r"experiments/(digits/\w+\.(py|html)|(?!(memory|tables)\.py)\w+\.py)")
    shipped = {f"jaxrnn/{name}" for name in files("experiments") if pages.fullmatch(name)}
    assert {name for name in wheel if ".dist-info/" not in name} == files("jaxrnn") | shipped
    assert files("jaxrnn") | files("experiments") | {*FILES[:6]} < sdist
    assert not [name for name in sdist if re.search(r"cache|\.pyc$|^(\.venv|runs|dist)\b", name)]


def assert_typed(python, folder):
    """A type checker finds the one error of a program."""
    (folder / "typed.py").write_text(TYPED)
    (folder / "mypy.ini").write_text(TYPES_OF_JAXRNN_ALONE)
    options = ["--python-executable", python, "--cache-dir", python.parents[2] / "mypy"]
    command = [sys.executable, "-m", "mypy", *options, "typed.py"]
    done = subprocess.run(command, cwd=folder, env=plain(), capture_output=True, text=True)
    (error, count) = done.stdout.splitlines()
    assert error.startswith("typed.py:6: error: ")
    assert '"hidden"' in error
    assert count.startswith("Found 1 error")


def test_all_that_the_readmes_say(tmp_path, tmp_path_factory, pytestconfig):
    """In one program, as starting one costs most."""
    python, folder = environment(pytestconfig.cache), tmp_path
    assert_complete(*install_wheel(python, tmp_path_factory.mktemp("dist")))
    assert_typed(python, folder)
    digit = np.full((40, 40, 3), 255, np.uint8)
    digit[5:35, 18:22] = 0  # a one, in black on white
    Image.fromarray(digit).save(folder / "digit.png")
    sums = "--epochs 1 --examples 700 --hidden 4 --workdir sums"
    programs = {
        **{"blocks": (blocks(), ""), "sums": (page(), sums), "list": (LIST, "")},
        "version": (RUN_PAGE, "jaxrnn.experiments.mnist_rnn --version"),
        "help": (RUN_PAGE, "jaxrnn.experiments.adding --help"),
        **{"images": ("", "--help"), "verbs": (VERBS_IN_TURN, "")},
    }
    for name, (code, words) in programs.items():
        (folder / f"{name}.py").write_text(code)
        (folder / f"{name}.words").write_text(words)
    command = [python, "-c", RUN, *programs]
    done = subprocess.run(command, cwd=folder, env=plain(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    printed = {name: (folder / f"{name}.txt").read_text() for name in programs}

    *epochs, last, steps = printed["blocks"].splitlines()
    assert len(epochs) == 3
    assert float(last.removeprefix("test accuracy ")) > 0.85
    assert int(steps) == 3 * 60 + 10
    assert (folder / "curves.png").stat().st_size > 10_000

    assert "held out rmse: " in printed["sums"]
    assert (folder / "sums" / "results.json").exists()
    assert "python -m jaxrnn.experiments.mnist_rnn " in printed["list"]
    assert printed["version"].startswith(f"jaxrnn {jaxrnn.__version__} (")
    assert "\n    python -m jaxrnn.experiments.adding [elman|long|mingru] " in printed["help"]
    assert "presets:\n  small\n" in printed["images"]

    assert set(VERBS_RUN) == {*VERBS, "sweep"}
    assert "after epoch 2:\n" in printed["verbs"]
    assert "digit.png: " in printed["verbs"]
    assert "no model.onnx: " in printed["verbs"]  # which needs an extra
    assert {path.name for path in (folder / "out").iterdir()} == {
        *("digit.html", "load.py", "model.json", "model.stablehlo", "weights.safetensors")
    }
    assert (folder / "two" / "sweep.png").exists()
