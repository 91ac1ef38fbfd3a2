"""Plot two tables of experiments/README.md: published results, and steps against delays.

    python -m experiments.tables

Writes published.png, the test error against the number of parameters of every network in "Pixel by
pixel" whose size is known, and delays.png, how many steps the copy-memory task takes at each delay.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxrnn.files import write_figure

ROOT = Path(__file__).parent
Row = Mapping[str, str]


def read_table(text: str, column: str) -> list[Row]:
    """Read the first Markdown table whose first column is ``column``: rows of cells by column.

    Raises:
      ValueError: there is no such table.
    """
    _, start, rest = text.partition(f"\n| {column} |")
    if not start:
        raise ValueError(f"no table has {column} as its first column")
    lines = (start + rest).partition("\n\n")[0].strip().splitlines()
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def number(cell: str) -> float | None:
    """Return the decimal number at the start of a cell, which may have separators; None if none."""
    found = re.match(r"[\d.,]+", cell)
    return float(found[0].replace(",", "")) if found else None


def plot_published(rows: Sequence[Row]) -> Figure:
    """Draw the test errors of networks against their numbers of parameters; ours are blue."""
    figure = Figure(figsize=(16, 11), layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), ("plain", "permuted"), strict=True):
        for row in rows:
            parameters, accuracy = number(row["parameters"]), number(row[f"{column}, %"])
            if parameters is None or accuracy is None:
                continue
            ours = row["network"].startswith("**")
            name = row["network"].replace("**", "").partition(", `")[0]
            color, edge = ("C0", "bottom") if ours else ("0.3", "top")
            side = "right" if ours and column == "plain" else "left"  # where no labels overlap
            point = parameters, 100 - accuracy
            axes.plot(*point, "o", color=color)
            style = {"color": color, "va": edge, "ha": side, "fontsize": "small"}
            axes.annotate(f"  {name}  ", point, **style)
        axes.set(xscale="log", yscale="log", xlim=(1e3, 2e6), ylim=(0.4, 100))
        axes.set(title=f"Pixel by pixel, {column}", xlabel="Parameters", ylabel="Test error, %")
        axes.set_yticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    return figure


def plot_delays(rows: Sequence[Row]) -> Figure:
    """Draw the steps until the copy-memory task is solved against the delay."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    points = np.array([(number(row["delay"]), number(row["steps"])) for row in rows], float)
    axes.plot(*points.T, "o-")
    axes.set(ylim=0, xlabel="Delay, time steps", ylabel="Optimizer steps until solved")
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    """Draw both figures next to the README."""
    text = (ROOT / "README.md").read_text("utf-8")
    write_figure(ROOT / "published.png", plot_published(read_table(text, "network")))
    write_figure(ROOT / "delays.png", plot_delays(read_table(text, "delay")))
    print(f"drew published.png and delays.png in {ROOT}")


if __name__ == "__main__":
    main()
