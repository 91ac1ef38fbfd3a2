"""Draw stored runs in one picture: test accuracy against seconds of training.

    python -m experiments.compare WORKDIR [WORKDIR ...] [--output runs.png]

Each run is one of ``python -m experiments.mnist_rnn``, with ``--test-every-epoch`` where its preset
does not test every epoch. A run of several seeds is drawn as mean and band.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

import jaxrnn
from experiments.workdir import save


@dataclass(frozen=True)
class Config:
    """What is drawn."""

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of the runs."""
    output: Path = Path("runs.png")
    """Where the picture goes."""


def main() -> None:
    """Run the command line."""
    config = tyro.cli(Config, prog="python -m experiments.compare", description=__doc__)
    try:
        runs = {}
        for workdir in config.workdirs:
            run = jaxrnn.load_run(workdir)
            preset = str(run.config["preset"])
            runs[preset if preset not in runs else str(workdir)] = run.history
        save(jaxrnn.plot_runs(runs), config.output)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(f"{len(runs)} runs are drawn in {config.output}")


if __name__ == "__main__":
    main()
