"""What the project promises about its own files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import as_users_do

ROOT = Path(__file__).parents[1]


def test_constraints_are_exact_and_name_no_index():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


@pytest.mark.program
def test_page_in_the_readme_runs(tmp_path):
    readme = (ROOT / "README.md").read_text()
    (page,) = re.findall(r"```\n(from dataclasses.*?)```", readme, re.DOTALL)
    assert len([line for line in page.splitlines() if line]) <= 25
    (tmp_path / "sums.py").write_text(page)
    words = ["--epochs", "1", "--examples", "700", "--hidden", "4", "--workdir", "run"]
    done = subprocess.run(
        [sys.executable, "sums.py", *words],
        cwd=tmp_path,
        env=as_users_do(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "held out rmse: " in done.stdout
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.program
def test_blocks_in_the_readme_run(tmp_path):
    """The second one continues from the first."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in blocks[0].splitlines() if line]) <= 25
    code = "".join(blocks)
    assert code.count("train[:48000]") == 1
    done = subprocess.run(
        [sys.executable, "-c", code.replace("train[:48000]", "train[:9000]")],
        cwd=tmp_path,
        env=as_users_do(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *epochs, last = done.stdout.splitlines()
    assert len(epochs) == 3
    assert float(last.removeprefix("test accuracy ")) > 0.85
    assert (tmp_path / "curves.png").stat().st_size > 10_000
