"""The figures drawn from the tables of experiments/README.md."""

import pytest

from experiments import tables

TEXT = """
| network | plain, % | permuted, % | parameters | source |
|---|---|---|---|---|
| GRU | 96.2 | 87.3 | 70,000 | TCN *q* |
| S4 | 99.63 | 98.70 | | S4 |
| **LRU**, `sequential_mnist lru` | 99.11 ± 0.02 | | 50,954 | here |

| delay | steps |
|---|---|
| 1,000 | 800 |
"""


def points(axes):
    return [tuple(map(float, line.get_xydata()[0])) for line in axes.lines]


def test_networks_of_known_size_are_drawn():
    plain, permuted = tables.plot_published(tables.read_table(TEXT, "network")).axes
    assert points(plain) == [(70_000, pytest.approx(3.8)), (50_954, pytest.approx(0.89))]
    assert [text.get_text().strip() for text in plain.texts] == ["GRU", "LRU"]
    assert points(permuted) == [(70_000, pytest.approx(12.7))]


def test_figures_of_the_readme(tmp_path, monkeypatch, capsys):
    (tmp_path / "README.md").write_text((tables.ROOT / "README.md").read_text("utf-8"))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    tables.main()
    assert "drew published.png and delays.png" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.png")} == {"published.png", "delays.png"}
    with pytest.raises(ValueError, match="no table has layer as its first column"):
        tables.read_table(TEXT, "layer")
