"""What the project promises about its own files."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import as_users_do

ROOT = Path(__file__).parents[1]


def test_constraints_are_exact_and_name_no_index():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def test_the_blocks_in_the_readme_run(tmp_path):
    """The second one goes on from the first."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in blocks[0].splitlines() if line]) <= 25
    done = subprocess.run(
        [sys.executable, "-c", "".join(blocks)],
        cwd=tmp_path,
        env=as_users_do(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *epochs, last = done.stdout.splitlines()
    assert len(epochs) == 3
    assert float(last.removeprefix("test accuracy ")) > 0.93
    assert (tmp_path / "curves.png").stat().st_size > 10_000
