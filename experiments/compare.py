"""Draw stored runs in one figure: a metric against seconds of training.

    python -m experiments.compare DIRECTORY [DIRECTORY ...] [--metric NAME] [--output runs.png]

Each line is named after the directory of its run. The runs of a sweep that differ only in the seed
are drawn as one line, their mean, in a band of one standard deviation. A directory that is not a
run stands for all finished runs below it, so runs/* stands for all of them.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxrnn import History
from jaxrnn.files import write_figure
from jaxrnn.plotting import plot_runs


@dataclass(frozen=True)
class Config:
    """Runs to draw, and how."""

    directories: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs or sweeps."""
    metric: str | None = None
    """Metric, such as validation_loss; by default test accuracy, or another that all runs have."""
    output: Path = Path("runs.png")
    """File to write the figure to."""


def find(directories: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return the directories of the runs of each line, by that of the run or of all its seeds."""
    lines: dict[Path, list[Path]] = {}
    for directory in (directory.resolve() for directory in directories):
        if (directory / "checkpoints").exists():
            lines[directory] = [directory]
            continue
        runs = [path.parent for path in sorted(directory.rglob("results.json"))]
        if not runs:
            raise ValueError(f"{directory} holds no finished run")
        for run in runs:  # SWEEP/seed-0, or SWEEP/hidden=64/seed-0
            swept = any((parent / "sweep.json").exists() for parent in run.parents[:2])
            lines.setdefault(run.parent if swept else run, []).append(run)
    return lines


def read(directories: Iterable[Path]) -> dict[str, list[History]]:
    """Read the curves of each line, by the shortest end of its path that no other line has."""
    lines = find(directories)

    def name_of(path: Path) -> str:
        ends = ("/".join(path.parts[-count:]) for count in range(1, len(path.parts)))
        alike = (end for end in ends if sum(f"{line}".endswith(f"/{end}") for line in lines) == 1)
        return next(alike, str(path))

    return {
        name_of(path): [History.from_csv(run / "history.csv") for run in dict.fromkeys(runs)]
        for path, runs in lines.items()
    }


def main() -> None:
    """Run the command line."""
    command = f"python -m {__package__ or 'experiments'}.compare"
    about = str(__doc__).replace("python -m experiments.compare", command)
    config = tyro.cli(Config, prog=command, description=about)
    try:
        lines = read(config.directories)
        write_figure(config.output, plot_runs(lines, config.metric))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    runs = sum(map(len, lines.values()))
    print(f"drew {runs} {'run' if runs == 1 else 'runs'} in {config.output}")


if __name__ == "__main__":
    main()
