"""Compile an epoch for accelerators that are not present, and count what a step launches.

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

LAUNCH = 2, 3  # assumed microseconds per kernel launch on a GPU, from and to


@dataclass(frozen=True)
class Config:
    """What to compile."""

    presets: tuple[str, ...] = ("keras",)
    """Presets of experiments.mnist_rnn."""
    targets: tuple[Literal["h100", "v5e", "v5e-4"], ...] = ("h100", "v5e", "v5e-4")
    """Devices to compile for."""
    examples: int = 60_000
    """Number of training examples; an incomplete last batch is dropped."""
    kernels: bool = False
    """Also list the kernels that a step launches."""


def count(compiled: Program) -> tuple[int, int]:
    """Return how many kernels a step launches, and how many of them are collectives."""
    step = parse(compiled.text).step(compiled.steps)
    return sum(times for times, _ in step), sum(times for times, line in step if line.is_collective)


def describe_launches(kernels: int, steps: int) -> str:
    """Return the time that launching the kernels takes, at LAUNCH microseconds each."""
    step = [f"{kernels * launch / 1e3:.2f}" for launch in LAUNCH]
    epoch = [f"{kernels * launch * steps / 1e3:.0f}" for launch in LAUNCH]
    return (
        f"at an assumed {LAUNCH[0]} to {LAUNCH[1]} µs per launch, {kernels} launches take "
        f"{' to '.join(step)} ms a step, {' to '.join(epoch)} ms an epoch of {steps} steps"
    )


def list_kernels(compiled: Program) -> list[str]:
    """Return what a step launches and how often, grouped by name and shape."""
    found: Counter[tuple[str, str]] = Counter()
    for times, line in parse(compiled.text).step(compiled.steps):
        found[line.name.rstrip("0123456789."), line.shape if len(line.shape) < 60 else "…"] += times
    return [f"  {times:4} × {name} {shape}" for (name, shape), times in found.items()]


def run(config: Config) -> None:
    """Compile each preset for each target, and print a table in Markdown."""
    unknown = [name for name in config.presets if name not in PRESETS]
    if unknown:
        raise ValueError(f"--presets must be one of {', '.join(PRESETS)}; got {unknown[0]}")
    notes, rows = (
        [],
        [
            "| preset | compiled for | kernels a step | collectives a step | memory, MiB "
            "| seconds to compile |\n|---|---|---|---|---|---|"
        ],
    )
    for preset in config.presets:
        for target in (TARGETS[name] for name in config.targets):
            compiled = compile_epoch(PRESETS[preset], target, config.examples)
            kernels, collectives = count(compiled)
            program = f"{preset}, batch {compiled.batch_size}"
            rows.append(
                f"| {program} | {target.name} | {kernels} | {collectives} "
                f"| {compiled.memory / 2**20:.0f} | {compiled.seconds:.1f} |"
            )
            if target.platform == "cuda":
                notes.append(f"{program}: {describe_launches(kernels, compiled.steps)}")
            if config.kernels:
                notes += [f"{program}, {target.name}:", *list_kernels(compiled)]
    print(*rows, "", *notes, sep="\n")


def main() -> None:
    """Run the command line."""
    config = tyro.cli(Config, prog="python -m experiments.accelerators", description=__doc__)
    try:
        without_devices()
        run(config)
    except (ImportError, ValueError, JaxRuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
