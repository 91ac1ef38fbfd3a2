"""Compile an epoch for accelerators that are not present, and count what a step does.

    python -m experiments.accelerators [--targets h100 v5e v5e-4] [--kernels]

Nothing runs on a device. It needs Linux and the extra "accelerators", a few hundred megabytes:

    pip install --constraint constraints.txt --editable '.[accelerators]'
"""

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import tyro
from jax.errors import JaxRuntimeError

from experiments.accelerators.hlo import parse
from experiments.accelerators.targets import TARGETS, Program, compile_epoch, without_devices
from experiments.mnist_rnn import PRESETS

Name = Literal["h100", "v5e", "v5e-4"]
LAUNCH = 2e-6, 3e-6  # assumed seconds per kernel launch on a GPU, from and to


@dataclass(frozen=True)
class Config:
    """What to compile."""

    presets: tuple[str, ...] = ("keras",)
    """Presets of experiments.mnist_rnn."""
    targets: tuple[Name, ...] = ("h100", "v5e", "v5e-4")
    """Devices to compile for."""
    examples: int = 60_000
    """Number of training examples; an incomplete last batch is dropped."""
    kernels: bool = False
    """Also list the kernels that a step launches."""


@dataclass(frozen=True)
class Row:
    """A line of the table: what one step of a program does."""

    program: str
    target: str
    kernels: int
    traffic: int
    collectives: int
    memory: int
    seconds: float


def summarize(program: str, target: str, compiled: Program) -> Row:
    """Count what a step of a compiled epoch does."""
    module = parse(compiled.text)
    step = module.step(compiled.steps)
    return Row(
        program=program,
        target=target,
        kernels=sum(times for times, _ in step),
        traffic=sum(times * module.traffic(one) for times, one in step),
        collectives=sum(times for times, one in step if one.is_collective),
        memory=compiled.memory,
        seconds=compiled.seconds,
    )


def format_table(rows: list[Row]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [
        "| preset | compiled for | kernels a step | MB moved a step | collectives a step "
        "| memory, MiB | seconds to compile |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row.program,
            row.target,
            row.kernels,
            f"{row.traffic / 1e6:.1f}",
            row.collectives,
            f"{row.memory / 2**20:.0f}",
            f"{row.seconds:.1f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def launching(row: Row, steps: int) -> str:
    """The time spent launching a row's kernels, assuming LAUNCH seconds per launch."""
    step = [f"{1e3 * row.kernels * seconds:.2f}" for seconds in LAUNCH]
    epoch = [f"{1e3 * row.kernels * seconds * steps:.0f}" for seconds in LAUNCH]
    return (
        f"{row.program}, {row.target}: at an assumed {LAUNCH[0] * 1e6:.0f} to "
        f"{LAUNCH[1] * 1e6:.0f} µs per launch, {row.kernels} launches take {' to '.join(step)} ms "
        f"a step, {' to '.join(epoch)} ms an epoch of {steps} steps"
    )


def list_kernels(compiled: Program) -> list[str]:
    """What a step launches and how often, grouped by name and shape."""
    found: Counter[tuple[str, str]] = Counter()
    for times, one in parse(compiled.text).step(compiled.steps):
        name = one.name.rstrip("0123456789.")
        found[name, one.shape if len(one.shape) < 60 else "…"] += times
    return [f"  {times:4} × {name} {shape}" for (name, shape), times in found.items()]


def run(config: Config) -> None:
    """Compile each preset for each target and print what was counted."""
    for name in config.targets:
        TARGETS[name].check()
    rows, notes = [], []
    for preset in config.presets:
        for name in config.targets:
            compiled = compile_epoch(PRESETS[preset], TARGETS[name], config.examples)
            program = f"{preset}, batch {compiled.batch_size}"
            rows.append(summarize(program, TARGETS[name].name, compiled))
            if name == "h100":
                notes.append(launching(rows[-1], compiled.steps))
            if config.kernels:
                print(f"{program}, {TARGETS[name].name}:", *list_kernels(compiled), sep="\n")
    print(*format_table(rows), "", *notes, sep="\n")


def main() -> None:
    """Run the command line."""
    config = tyro.cli(Config, prog="python -m experiments.accelerators", description=__doc__)
    unknown = [name for name in config.presets if name not in PRESETS]
    try:
        if unknown:
            raise ValueError(f"--presets must be one of {', '.join(PRESETS)}; got {unknown[0]}")
        without_devices()
        run(config)
    except (ImportError, ValueError, JaxRuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
