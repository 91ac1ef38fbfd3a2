"""What long sequences take, with and without the options that save memory."""

import re

import pytest

from experiments.memory import measure_lengths


@pytest.mark.program
def test_a_row_for_each_option(capsys):
    measure_lengths([400], repeats=1)
    found = re.findall(
        r"\| 400 \| (?:`--(\w+) \d+`)? \| (\d+) \| \d+\.\d\d \|", capsys.readouterr().out
    )
    memory = {option: int(mebibytes) for option, mebibytes in found}
    assert [*memory] == ["", "accumulate", "truncate", "remat"]
    assert max(memory["accumulate"], memory["truncate"], memory["remat"]) < memory[""] / 3
