"""Reports of the benchmark: tables, plots, and a description of the machine."""

import math
import platform
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.benchmark.protocol import Row
from jaxrnn.training.sharding import available_cores


def step_flops(
    batch: int, time: int, features: int, hidden: int, classes: int = 10, gates: int = 1
) -> int:
    """Count the multiplications and additions of a training step, matrix products only.

    Forward: batch · time · (features + hidden) · hidden for each gate, and the head. Backward: the
    same for the gradients of the weights, and batch · time · hidden² for each gate for those of the
    states.
    """
    forward = gates * batch * time * (features + hidden) * hidden
    states = gates * batch * time * hidden * hidden
    head = batch * hidden * classes
    return 2 * (2 * forward + states + 3 * head)


def print_table(rows: list[Row]) -> None:
    """Print the peers as the Markdown table of the README."""
    print(
        "\n| | seconds an epoch (min … max) | examples/s | GFLOP/s | of sgemm | memory | time |"
        "\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['name']} | {row['seconds_per_epoch']:.2f} "
            f"({row['seconds_min']:.2f} … {row['seconds_max']:.2f}) | "
            f"{row['examples_per_second']:,.0f} | {row['gflops']:.0f} | "
            f"{row['sgemm_fraction']:.0%} | {row['peak_rss_bytes'] / 2**20:,.0f} MiB | "
            f"{row['ratio']:.2f} × |"
        )


def print_times(rows: list[Row], accuracy: float) -> None:
    """Print the time to reach an accuracy as a Markdown table of medians over seeds.

    Ratios are relative to the fastest contender, with their range over the seeds in parentheses.
    """
    print(
        f"\n| until {accuracy:.2%} of the test set | epochs | seconds of training (min … max) | "
        "time |\n|---|---|---|---|"
    )
    best = min(rows, key=lambda row: row["median_seconds"] or math.inf)
    for row in rows:
        measured = [value for value in row["seconds"] if value is not None]
        missed = len(row["seconds"]) - len(measured)
        never = f", {missed} of {len(row['seconds'])} seeds never" * (missed > 0)
        if row["median_seconds"] is None:
            print(f"| {row['name']} | | {never.strip(', ')} | |")
            continue
        ratio = f"{row['median_seconds'] / best['median_seconds']:.1f} ×"
        ratios = [
            seconds / least
            for seconds, least in zip(row["seconds"], best["seconds"], strict=True)
            if seconds and least
        ]
        ratio += f" ({min(ratios):.1f} … {max(ratios):.1f})" if row is not best and ratios else ""
        print(
            f"| {row['name']} | {row['median_epochs']:g} | {row['median_seconds']:.1f} "
            f"({min(measured):.1f} … {max(measured):.1f}{never}) | {ratio} |"
        )


def plot_peers(rows: list[Row]) -> Figure:
    """Draw examples per second, one bar each."""
    figure = Figure(figsize=(8, 0.6 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    names = [row["name"] for row in rows][::-1]
    rates = [row["examples_per_second"] for row in rows][::-1]
    bars = axes.barh(names, rates, color=["tab:blue"] * (len(rows) - 1) + ["tab:orange"])
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4)
    axes.set_xlabel("Training examples per second")
    axes.margins(x=0.15)
    return figure


def plot_scaling(rows: list[Row]) -> Figure:
    """Draw the examples per second against each size, on logarithmic axes."""
    labels = {"batch_size": "Batch size", "hidden": "Hidden units", "time": "Time steps"}
    labels |= {"processes": "Devices"}
    panels = [axis for axis in labels if any(row["axis"] == axis for row in rows)]
    figure = Figure(figsize=(5 * len(panels), 4.5), layout="constrained")
    for axes, axis in zip(figure.subplots(1, len(panels)), panels, strict=True):
        points = [row for row in rows if row["axis"] == axis]
        sizes = [row["size"] for row in points]
        for name in points[0]:
            if name not in ("axis", "size") and not name.endswith("ratio"):
                rates = [1 / row[name] for row in points]
                axes.loglog(sizes, rates, marker="o", label=name)
        axes.set(xlabel=labels[axis], ylabel="Training examples per second")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend()
    return figure


def describe_machine() -> str:
    """Return the processor, as Linux names it, and the number of cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or "unknown processor"
    return f"{available_cores()} cores of {model}"
