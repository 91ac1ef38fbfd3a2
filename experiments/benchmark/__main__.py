"""Compare jaxrnn with its peers in one run on the same machine, data and protocol.

    python -m experiments.benchmark [--scaling | --accuracy 0.9793] [OPTIONS]

Protocol: the last 55,000 training images of MNIST, batches of 150, Adam at 1e-3, float32, 366 steps
per epoch. Contenders take turns, an epoch each; the first round warms up and doesn't count. With
--accuracy, each trains until its test accuracy first reaches that number, tested after every epoch,
for several seeds, beside the presets fast and sprint on all 60,000 images. What is built before the
first epoch is not measured; jaxrnn compiles then, others during that epoch. Peers are optional:

    pip install -e '.[bench]'
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Literal

import tyro

import jaxrnn
from experiments.benchmark.contenders import CONTENDERS
from experiments.benchmark.peers import measure_peers, measure_time_to_accuracy, wanted
from experiments.benchmark.protocol import Options
from experiments.benchmark.report import (
    describe_machine,
    plot_peers,
    plot_scaling,
    print_table,
    print_times,
)
from experiments.benchmark.scaling import measure_processes, measure_scaling, measure_stream
from jaxrnn.files import write_figure, write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    repeats: int = 5
    """Number of epochs of each contender after the warm-up; with --accuracy, number of seeds."""
    batch_size: int = 150
    """Examples per step."""
    hidden: int = 150
    """Recurrent units."""
    cell: Literal["simple", "gru", "lstm"] = "simple"
    """Recurrent cell."""
    examples: int = 55_000
    """Number of training examples, from the end of the training set."""
    only: tuple[str, ...] = ()
    """Contenders to compare with jaxrnn; by default all that are installed."""
    accuracy: float | None = None
    """Measure the training time until the test accuracy reaches this value."""
    scaling: bool = False
    """Measure jaxrnn, Flax and PyTorch for several batch sizes, hidden sizes and sequence lengths
    instead, jaxrnn on several processes, and reading from disk."""
    data_dir: Path | None = None
    """Directory of prepared datasets; None for tfds's default."""
    workdir: Path | None = None
    """Directory for results and plots; None for runs/benchmark/DATE-TIME."""


def main() -> None:
    """Run the command line."""
    config = tyro.cli(Config, prog="python -m experiments.benchmark", description=__doc__)
    if (
        set(config.only) - set(CONTENDERS)
        or min(config.repeats, config.batch_size, config.hidden) < 1
        or not (config.batch_size <= config.examples <= 60_000)
        or not 0 < (config.accuracy or 1) <= 1
    ):
        print(
            f"error: --only takes some of {', '.join(CONTENDERS)}; --repeats, --batch-size and "
            "--hidden must be at least 1, --examples between the batch size and 60000, and "
            "--accuracy above 0 and at most 1",
            file=sys.stderr,
        )
        raise SystemExit(2)
    workdir = config.workdir or Path("runs", "benchmark", time.strftime("%Y%m%d-%H%M%S"))
    workdir.mkdir(parents=True, exist_ok=True)
    train, last, test = (
        jaxrnn.load(split=split, data_dir=config.data_dir)
        for split in ("train", f"train[{60_000 - config.examples}:]", "test")
    )
    options = Options(config.hidden, config.batch_size, cell=config.cell)
    if config.accuracy is not None:
        # With --only, jaxrnn in the notebooks' protocol is measured only if it is named.
        names = [name for name in wanted(config.only) if not config.only or name in config.only]
        rows = measure_time_to_accuracy(
            names, train, last, test, options, config.repeats, config.accuracy
        )
        print_times(rows, config.accuracy)
        name = "accuracy"
    elif config.scaling:
        rows = measure_scaling(last, test, options, config.repeats)
        common = ["--epochs", str(config.repeats + 1), "--hidden", str(config.hidden)]
        common += ["--cell", config.cell]
        common += ["--train", f"train[{60_000 - config.examples}:]"]
        common += ["--data-dir", str(config.data_dir)] if config.data_dir else []
        rows += measure_processes(common, config.batch_size)
        rows += measure_stream(common, config.batch_size)
        write_figure(workdir / "scaling.png", plot_scaling(rows))
        name = "scaling"
    else:
        rows = measure_peers(wanted(config.only), last, test, options, config.repeats)
        print_table(rows)
        write_figure(workdir / "benchmark.png", plot_peers(rows))
        name = "benchmark"
    shown = {name: str(value) for name, value in dataclasses.asdict(config).items()}
    content = {"machine": describe_machine(), "config": shown, "rows": rows}
    write_json(workdir / f"{name}.json", content)
    print(f"\n{describe_machine()}; files are in {workdir}")


if __name__ == "__main__":
    main()
