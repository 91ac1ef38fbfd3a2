"""Draw stored runs in one figure: a metric against seconds of training.

    python -m experiments.compare DIRECTORY [DIRECTORY ...] [--metric NAME] [--output runs.png]

Each line is named after the directory of its run. A directory that holds no run itself stands for
all finished runs below it, so runs/* stands for all of them. A run of several seeds is drawn as a
mean and a band.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import jaxrnn
from jaxrnn.files import write_figure


@dataclass(frozen=True)
class Config:
    """What to draw."""

    directories: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs."""
    metric: str | None = None
    """Metric, such as validation_loss; by default test accuracy, or another that all runs have."""
    output: Path = Path("runs.png")
    """File to write the figure to."""


def find(directories: Iterable[Path]) -> Iterator[Path]:
    """The directories of runs: those that are given, and finished ones below them."""
    for directory in directories:
        if (directory / "checkpoints").exists():
            yield directory
            continue
        found = [path.parent for path in sorted(directory.rglob("results.json"))]
        if not found:
            raise ValueError(f"{directory} holds no finished run")
        yield from found


def read(directories: Iterable[Path]) -> dict[str, Any]:
    """The curves of runs, by the part of their paths that distinguishes them."""
    paths = list(dict.fromkeys(path.resolve() for path in find(directories)))
    names = [path.name for path in paths]
    return {
        name if names.count(name) == 1 else f"{path.parent.name}/{name}": jaxrnn.load_run(
            path
        ).history
        for name, path in zip(names, paths, strict=True)
    }


def main() -> None:
    """Run the command line."""
    config = tyro.cli(Config, prog="python -m experiments.compare", description=__doc__)
    try:
        runs = read(config.directories)
        write_figure(config.output, jaxrnn.plotting.plot_runs(runs, config.metric))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(f"drew {len(runs)} {'run' if len(runs) == 1 else 'runs'} in {config.output}")


if __name__ == "__main__":
    main()
