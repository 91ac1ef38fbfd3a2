"""Every verb and the README's code run in an environment that ``make mnist`` alone has made."""

import fcntl
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxrnn.runs.verbs import VERBS
from tests.conftest import SHARED, as_users_do

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
ALL_VERBS = """
import sys, jaxrnn
from experiments.mnist_rnn import PRESETS
for words in sys.argv[1:]:
    jaxrnn.main(PRESETS, default="fast", arguments=words.split())
"""


@pytest.fixture(scope="session")
def environment():
    """The directory of an environment with the base dependencies only, shared by all workers."""
    folder = Path(SHARED, "base")
    with open(f"{SHARED}/base.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            for name in FILES:
                (folder / name).symlink_to(ROOT / name)
            subprocess.run(["make", ".venv/.installed"], cwd=folder, env=plain(), check=True)
    return folder


def plain():
    """The variables of a shell in which no environment is active."""
    return {name: value for name, value in as_users_do().items() if name != "VIRTUAL_ENV"}


def output_of(environment, folder, *words):
    """Run Python in a directory; returns what it printed, to standard output alone."""
    command = [environment / ".venv" / "bin" / "python", *words]
    done = subprocess.run(
        command, cwd=folder, env=plain(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_verb(environment, tmp_path):
    assert set(VERBS_RUN) == {*VERBS, "sweep"}
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    digit = np.full((40, 40, 3), 255, np.uint8)
    digit[5:35, 18:22] = 0  # a one, in black on white
    Image.fromarray(digit).save(tmp_path / "digit.png")
    commands = [f"{TRAIN} run", *VERBS_RUN.values()]
    printed = output_of(environment, tmp_path, "-c", ALL_VERBS, *commands)
    assert "after epoch 2:\n" in printed
    assert "digit.png: " in printed
    assert "no model.onnx: " in printed  # which needs an extra
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("digit.html", "load.py", "model.json", "model.stablehlo", "weights.safetensors")
    }
    assert (tmp_path / "two" / "sweep.png").exists()


def test_list_of_experiments_and_its_page(environment, tmp_path):
    printed = output_of(environment, tmp_path, "-m", "jaxrnn")
    assert "python -m experiments.mnist_rnn " in printed
    (tmp_path / "images.py").write_text(printed[printed.index('"""') :])
    assert "presets:\n  small\n" in output_of(environment, tmp_path, "images.py", "--help")


def test_page_in_the_readme(environment, tmp_path):
    (page,) = re.findall(r"```\n(from dataclasses.*?)```", README, re.DOTALL)
    assert len([line for line in page.splitlines() if line]) <= 25
    (tmp_path / "sums.py").write_text(page)
    words = ["--epochs", "1", "--examples", "700", "--hidden", "4", "--workdir", "run"]
    assert "held out rmse: " in output_of(environment, tmp_path, "sums.py", *words)
    assert (tmp_path / "run" / "results.json").exists()


def test_blocks_in_the_readmes(environment, tmp_path):
    """That of the experiments continues from the first."""
    both = README + (ROOT / "experiments" / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", both, re.DOTALL)
    assert len([line for line in first.splitlines() if line]) <= 25
    assert (first.count("train[:48000]"), second.count('"train"')) == (1, 1)
    code = first.replace("train[:48000]", "train[:9000]")
    code += second.replace('"train"', '"train[:1500]"') + "print(int(state.step))"
    *epochs, last, steps = output_of(environment, tmp_path, "-c", code).splitlines()
    assert len(epochs) == 3
    assert float(last.removeprefix("test accuracy ")) > 0.85
    assert int(steps) == 3 * 60 + 10
    assert (tmp_path / "curves.png").stat().st_size > 10_000
