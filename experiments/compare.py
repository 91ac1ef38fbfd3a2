"""Draw stored runs in one picture: test accuracy against seconds of training.

    python -m experiments.compare WORKDIR [WORKDIR ...] [--output runs.png]

Each line is named after its directory. A run of several seeds is drawn as mean and band.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

import jaxrnn
from jaxrnn.runs.files import write_figure


@dataclass(frozen=True)
class Config:
    """What to draw."""

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of the runs."""
    output: Path = Path("runs.png")
    """File for the picture."""


def main() -> None:
    """Run the command line."""
    config = tyro.cli(Config, prog="python -m experiments.compare", description=__doc__)
    try:
        runs = {path.resolve().name: jaxrnn.load_run(path).history for path in config.workdirs}
        write_figure(config.output, jaxrnn.plot_runs(runs))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(f"drew {len(runs)} runs in {config.output}")


if __name__ == "__main__":
    main()
