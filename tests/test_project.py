"""What the project promises about its own files."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_constraints_are_exact_and_name_no_index():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def test_every_public_name_is_documented():
    import jaxrnn

    for name in jaxrnn.__all__:
        assert getattr(jaxrnn, name).__doc__, name
