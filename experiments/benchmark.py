"""Measure jaxrnn beside its peers, in one run on the same machine, data and protocol.

    python -m experiments.benchmark [--scaling | --accuracy 0.9793] [--options]

Protocol: the last 55,000 training images of MNIST, batches of 150, Adam at 1e-3, float32, 366 steps
an epoch. Contenders take turns, an epoch each, so that the machine's moods fall on all of them;
the first round warms up and does not count. With --accuracy, each trains until its test accuracy
first reaches that number, tested after every epoch, for several seeds; beside the protocol above,
the fast preset on all 60,000 images. What is built before the first epoch, compiled programs of
jaxrnn among it, is not in these seconds. Peers other than Flax are measured if installed:

    pip install -e '.[bench]'
"""

import dataclasses
import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import jaxrnn
from experiments.configuration import PRESETS
from experiments.peers import CONTENDERS, SGEMM_PRODUCTS, SGEMM_SIZE
from jaxrnn.history import write_atomically

PRESETS_EPOCHS = {"jaxrnn fast": PRESETS["fast"].epochs, "jaxrnn fast --epochs 2": 2}
MAX_EPOCHS = 100  # where an accuracy is never reached
REST = 0.5  # seconds between turns: some thread pools spin for a while before they sleep
SCALES = {
    "batch_size": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "hidden": (64, 128, 256, 512, 1024),
    "time": (28, 56, 112, 196, 392, 784),
}
PROCESSES = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured."""

    repeats: int = 5
    """Epochs of each contender that count; with --accuracy, seeds."""
    batch_size: int = 150
    """Examples a step."""
    hidden: int = 150
    """Recurrent units."""
    examples: int = 55_000
    """Of the training set, from its end."""
    only: tuple[str, ...] = ()
    """Contenders to measure beside jaxrnn; all that are installed by default."""
    accuracy: float | None = None
    """Measure the seconds of training until the test accuracy reaches this."""
    scaling: bool = False
    """Measure jaxrnn and Flax over batch, hidden and sequence sizes instead; and jaxrnn on several
    processes, and reading from disk."""
    data_dir: Path | None = None
    """Where prepared datasets are kept; None for tfds's own place."""
    workdir: Path | None = None
    """Where figures and pictures go; None for runs/benchmark/DATE-TIME."""


def main() -> None:
    """Run the command line."""
    config = tyro.cli(Config, prog="python -m experiments.benchmark", description=__doc__)
    unknown = set(config.only) - set(CONTENDERS)
    if (
        unknown
        or min(config.repeats, config.batch_size, config.hidden) < 1
        or not (config.batch_size <= config.examples <= 60_000)
        or not 0 < (config.accuracy or 1) <= 1
    ):
        print(
            f"error: --only takes of {', '.join(CONTENDERS)}; repeats, batch size and hidden are "
            "at least 1; examples between the batch size and 60000; an accuracy above 0, at most 1",
            file=sys.stderr,
        )
        raise SystemExit(2)
    workdir = config.workdir or Path("runs", "benchmark", time.strftime("%Y%m%d-%H%M%S"))
    workdir.mkdir(parents=True, exist_ok=True)
    train = jaxrnn.load(split="train", data_dir=config.data_dir)
    test = jaxrnn.load(split="test", data_dir=config.data_dir)
    if config.accuracy is not None:
        rows = measure_time_to_accuracy(config, train, test)
        print_times(rows, config.accuracy)
        name = "accuracy.json"
    elif config.scaling:
        rows = measure_scaling(config, last(train, config.examples), test)
        rows += measure_processes(config)
        rows += measure_stream(config)
        plot_scaling(rows).savefig(workdir / "scaling.png", dpi=80)
        name = "scaling.json"
    else:
        rows = measure_peers(config, last(train, config.examples), test)
        print_table(rows)
        plot_peers(rows).savefig(workdir / "benchmark.png", dpi=80)
        name = "benchmark.json"
    content = {"machine": describe_machine(), "config": dataclasses.asdict(config), "rows": rows}
    write_atomically(workdir / name, json.dumps(content, indent=2, default=str) + "\n")
    print(f"\n{describe_machine()}; everything is in {workdir}")


def last(split: jaxrnn.Split, examples: int) -> jaxrnn.Split:
    """Some examples, from the end of the file."""
    return jaxrnn.Split(split.inputs[-examples:], split.labels[-examples:])


def measure_peers(config: Config, train: jaxrnn.Split, test: jaxrnn.Split) -> list[dict[str, Any]]:
    """One row for each contender, jaxrnn first."""
    names = [name for name in CONTENDERS if name not in PRESETS_EPOCHS and is_wanted(name, config)]
    options = {"hidden": config.hidden, "batch_size": config.batch_size, "seed": 0}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    with ExitStack() as stack, saved(train, test) as data:
        contenders = {name: stack.enter_context(contender(name, data, options)) for name in names}
        for repeat in range(config.repeats + 1):
            for name, ask in contenders.items():
                time.sleep(REST)
                answer = ask("epoch")
                peaks[name] = answer["peak_rss_bytes"]
                if repeat:
                    seconds[name].append(answer["seconds"])
            print(f"round {repeat} of {config.repeats}" + " (warm-up)" * (not repeat), flush=True)

    sgemm = 2 * SGEMM_SIZE**3 * SGEMM_PRODUCTS / np.median(seconds.pop("sgemm")) / 1e9
    steps = config.examples // config.batch_size
    _, time_steps, features = train.inputs.shape
    work = steps * step_flops(config.batch_size, time_steps, features, config.hidden) / 1e9
    rows = []
    for name, measured in seconds.items():
        median = float(np.median(measured))
        # Round by round: both sides of a ratio saw the same mood of the machine.
        ratio = float(np.median(np.divide(measured, seconds["jaxrnn"])))
        rows.append(
            {
                "name": name,
                "seconds_per_epoch": median,
                "seconds_min": min(measured),
                "seconds_max": max(measured),
                "examples_per_second": steps * config.batch_size / median,
                "gflops": work / median,
                "sgemm_fraction": work / median / sgemm,
                "peak_rss_bytes": peaks[name],
                "ratio": ratio,
            }
        )
    return rows


def measure_time_to_accuracy(
    config: Config, train: jaxrnn.Split, test: jaxrnn.Split
) -> list[dict[str, Any]]:
    """One row for each contender: for each seed, epochs and seconds of training; None if never."""
    assert config.accuracy is not None
    peers = [name for name in CONTENDERS if name not in (*PRESETS_EPOCHS, "sgemm")]
    asked = config.only or peers  # jaxrnn by the notebooks' recipe, too, is not asked for always
    names = [name for name in peers if name in asked and is_wanted(name, config)]
    names = [*PRESETS_EPOCHS, *names]
    rows: list[dict[str, Any]] = [{"name": name, "epochs": [], "seconds": []} for name in names]
    with saved(train, test) as all_of_it, saved(last(train, config.examples), test) as protocol:
        for seed in range(config.repeats):
            options = {"hidden": config.hidden, "batch_size": config.batch_size, "seed": seed}
            for row in rows:
                data = all_of_it if row["name"] in PRESETS_EPOCHS else protocol
                with contender(row["name"], data, options) as ask:
                    seconds, reached = 0.0, None
                    for epoch in range(1, PRESETS_EPOCHS.get(row["name"], MAX_EPOCHS) + 1):
                        seconds += ask("epoch")["seconds"]
                        if ask("test")["accuracy"] >= config.accuracy:
                            reached = epoch
                            break
                row["epochs"].append(reached)
                row["seconds"].append(seconds if reached else None)
                after = f"{seconds:.1f} s, {reached} epochs" if reached else "never"
                print(f"seed {seed}: {row['name']}: {after}", flush=True)
                time.sleep(REST)
    for row in rows:
        for quantity in ("epochs", "seconds"):  # what is never reached takes longest
            values = [math.inf if value is None else value for value in row[quantity]]
            median = float(np.median(values))
            row[f"median_{quantity}"] = median if math.isfinite(median) else None
    return rows


def measure_scaling(
    config: Config, train: jaxrnn.Split, test: jaxrnn.Split
) -> list[dict[str, Any]]:
    """Seconds per example of jaxrnn and Flax as one size grows and the others stay."""
    rows = []
    for axis, sizes in SCALES.items():
        for size in sizes:
            options = {"hidden": config.hidden, "batch_size": config.batch_size, "seed": 0}
            options |= {axis: size} if axis != "time" else {}
            time_steps = size if axis == "time" else 28
            # About the same work for each point, and at least two steps.
            flops = step_flops(1, time_steps, 784 // time_steps, options["hidden"])
            examples = int(min(len(train.labels), 2e11 / flops))
            examples = max(2, examples // options["batch_size"]) * options["batch_size"]
            inputs = train.inputs[:examples].reshape(-1, time_steps, 784 // time_steps)
            split = jaxrnn.Split(inputs, train.labels[:examples])
            row: dict[str, Any] = {"axis": axis, "size": size}
            with ExitStack() as stack, saved(split, test) as data:
                contenders = {
                    name: stack.enter_context(contender(name, data, options))
                    for name in ("jaxrnn", "Flax nn.RNN")
                }
                seconds: dict[str, list[float]] = {name: [] for name in contenders}
                for repeat in range(config.repeats + 1):
                    for name, ask in contenders.items():
                        time.sleep(REST)
                        answer = ask("epoch")["seconds"]
                        if repeat:
                            seconds[name].append(answer)
            for name, measured in seconds.items():
                row[name] = float(np.median(measured)) / examples
            rows.append(row)
            print(
                f"{axis} {size}: microseconds an example: jaxrnn {1e6 * row['jaxrnn']:.1f}, "
                f"Flax {1e6 * row['Flax nn.RNN']:.1f}",
                flush=True,
            )
    return rows


def measure_processes(config: Config) -> list[dict[str, Any]]:
    """Seconds per example of N processes with a device each, and of one process with N devices."""
    rows = []
    share = max(PROCESSES)
    batch_size = -(-config.batch_size // share) * share
    for count in PROCESSES:
        one = run_experiment(config, batch_size, devices=count)
        several = run_experiment(config, batch_size, processes=count) if count > 1 else one
        rows.append(
            {"axis": "processes", "size": count, "one process": one, "several processes": several}
        )
        print(
            f"{count} devices: microseconds an example: in one process {1e6 * one:.1f}, "
            f"in {count} {1e6 * several:.1f}",
            flush=True,
        )
    return rows


def measure_stream(config: Config) -> list[dict[str, Any]]:
    """Seconds per example from memory and from disk, taking turns."""
    kinds = {"memory": [], "stream": ["--stream"], "one worker": ["--stream", "--workers", "1"]}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(3):
        for kind, options in kinds.items():
            seconds[kind].append(run_experiment(config, config.batch_size, options))
    row: dict[str, Any] = {kind: float(np.median(values)) for kind, values in seconds.items()}
    for kind in ("stream", "one worker"):
        row[f"{kind} ratio"] = float(np.median(np.divide(seconds[kind], seconds["memory"])))
    print(
        f"data in memory: {1e6 * row['memory']:.1f} microseconds an example; streamed "
        f"{1e6 * row['stream']:.1f} ({row['stream ratio']:.3f} ×), by a process that reads "
        f"{1e6 * row['one worker']:.1f} ({row['one worker ratio']:.3f} ×)"
    )
    return [{"axis": "data", **row}]


def run_experiment(
    config: Config,
    batch_size: int,
    options: Sequence[str] = (),
    *,
    devices: int | None = None,
    processes: int = 1,
) -> float:
    """Median seconds per example of the epochs of a whole run but the first; all its processes."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("localhost", 0)) as unused:
        command = [sys.executable, "-m", "experiments.mnist_rnn", "keras", *options]
        command += ["--epochs", str(config.repeats + 1), "--hidden", str(config.hidden)]
        command += ["--batch-size", str(batch_size), "--drop-remainder"]
        command += ["--train-split", f"train[{60_000 - config.examples}:]"]
        command += ["--validation-split", "None", "--test-split", "test[:100]"]
        command += ["--workdir", f"{folder}/run"]
        if config.data_dir is not None:
            command += ["--data-dir", str(config.data_dir)]
        if processes > 1:
            command += ["--distributed", "--coordinator", f"localhost:{unused.getsockname()[1]}"]
            command += ["--processes", str(processes), "--devices", "1", "--process"]
        elif devices is not None:
            command += ["--devices", str(devices)]
        unused.close()
        running = [
            subprocess.Popen(
                [*command, *([str(process)] if processes > 1 else [])],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for process in range(processes)
        ]
        if processes > 1 and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))  # each process on its own, as launchers do it
            for number, process in enumerate(running):
                os.sched_setaffinity(process.pid, {cores[number % len(cores)]})
        printed = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise RuntimeError(f"{' '.join(command)} failed:\n" + "\n".join(printed))
        history = jaxrnn.History.from_csv(f"{folder}/run/history.csv")
    trained = config.examples // batch_size * batch_size
    return float(np.median(history["seconds"][1:])) / trained


def is_wanted(name: str, config: Config) -> bool:
    """Whether a contender is asked for and its packages are installed."""
    if name.startswith("jaxrnn") or name == "sgemm":
        return True
    _, packages, _ = CONTENDERS[name]
    installed = all(importlib.util.find_spec(package) for package in packages)
    if not installed and (name in config.only or not config.only):
        print(f"{name} is left out: it needs {' and '.join(packages)}")
    return installed and (not config.only or name in config.only)


@contextmanager
def saved(train: jaxrnn.Split, test: jaxrnn.Split) -> Iterator[str]:
    """The data in a file that every contender's process reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/data.npz"
        np.savez(
            path,
            images=train.inputs,
            labels=train.labels,
            test_images=test.inputs,
            test_labels=test.labels,
        )
        yield path


@contextmanager
def contender(name: str, data: str, options: dict[str, int]) -> Iterator[Any]:
    """A process of its own; what is yielded asks it to train an epoch, or to test."""
    _, _, environment = CONTENDERS[name]
    command = [sys.executable, "-m", "experiments.peers", name, data, json.dumps(options)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_DEPRECATION_WARNINGS": "0"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **quiet, **environment},
        )
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def ask(what: str) -> Any:
            try:
                asked.write(f"{what}\n")
                asked.flush()
                return json.loads(answered.readline())
            except (BrokenPipeError, json.JSONDecodeError) as error:
                process.wait()
                errors.seek(0)
                raise RuntimeError(f"{name} failed:\n{errors.read()}") from error

        try:
            yield ask
        finally:
            process.kill()
            process.communicate()


def step_flops(batch: int, time: int, features: int, hidden: int, classes: int = 10) -> int:
    """Multiplications and additions of one training step, in matrix products alone.

    Forward, batch · time · (features + hidden) · hidden and the head; backward, the same again for
    the weights' gradients and batch · time · hidden² for the states'; two operations each.
    """
    forward = batch * time * (features + hidden) * hidden
    states = batch * time * hidden * hidden
    head = batch * hidden * classes
    return 2 * (2 * forward + states + 3 * head)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Markdown, as in the README."""
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


def print_times(rows: list[dict[str, Any]], accuracy: float) -> None:
    """Markdown, as in the README: medians over seeds, and each against the first row's."""
    print(
        f"\n| until {accuracy:.2%} of the test set | epochs | seconds of training (min … max) | "
        "time |\n|---|---|---|---|"
    )
    best = rows[0]["median_seconds"]
    for row in rows:
        measured = [value for value in row["seconds"] if value is not None]
        missed = len(row["seconds"]) - len(measured)
        never = f", {missed} of {len(row['seconds'])} seeds never" * (missed > 0)
        if row["median_seconds"] is None:
            print(f"| {row['name']} | | {never.strip(', ')} | |")
            continue
        ratio = f"{row['median_seconds'] / best:.1f} ×" if best else ""
        print(
            f"| {row['name']} | {row['median_epochs']:g} | {row['median_seconds']:.1f} "
            f"({min(measured):.1f} … {max(measured):.1f}{never}) | {ratio} |"
        )


def plot_peers(rows: list[dict[str, Any]]) -> Figure:
    """Examples per second, a bar each."""
    figure = Figure(figsize=(8, 0.6 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    names = [row["name"] for row in rows][::-1]
    rates = [row["examples_per_second"] for row in rows][::-1]
    bars = axes.barh(names, rates, color=["tab:blue"] * (len(rows) - 1) + ["tab:orange"])
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4)
    axes.set_xlabel("Training examples per second")
    axes.margins(x=0.15)
    return figure


def plot_scaling(rows: list[dict[str, Any]]) -> Figure:
    """Time an example against each size, log-log."""
    figure = Figure(figsize=(20, 4.5), layout="constrained")
    labels = {"batch_size": "Batch size", "hidden": "Hidden units", "time": "Time steps"}
    labels |= {"processes": "Devices"}
    for axes, (axis, label) in zip(figure.subplots(1, 4), labels.items(), strict=True):
        points = [row for row in rows if row["axis"] == axis]
        several = ("one process", "several processes")
        for name in several if axis == "processes" else ("jaxrnn", "Flax nn.RNN"):
            axes.loglog(
                [row["size"] for row in points],
                [1e6 * row[name] for row in points],
                marker="o",
                label=name,
            )
        axes.set(xlabel=label, ylabel="Microseconds an example")
        axes.set_xticks([row["size"] for row in points], [str(row["size"]) for row in points])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend()
    return figure


def describe_machine() -> str:
    """The processor, as Linux names it, and the cores this process may use."""
    model = "unknown processor"
    if Path("/proc/cpuinfo").exists():
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


if __name__ == "__main__":
    main()
