"""Measure seconds per example for various sizes, devices, processes and ways to read data."""

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from experiments.benchmark.peers import take_turns, wanted
from experiments.benchmark.process import saved
from experiments.benchmark.protocol import GATES, Options, Row
from experiments.benchmark.report import step_flops
from jaxrnn import History, Split

SCALES = {
    "batch_size": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "hidden": (64, 128, 256, 512, 1024, 2048),
    "time": (28, 56, 112, 196, 392, 784),
}
PROCESSES = (1, 2, 4)
PAIRS = {"jaxrnn": "Flax nn.RNN", "jaxrnn in NNX": "Flax nnx.RNN"}
_PYTORCH = "PyTorch nn.RNN"


def measure_scaling(train: Split, test: Split, options: Options, repeats: int) -> list[Row]:
    """Compare jaxrnn with Flax and PyTorch as one size grows and the others stay the same."""
    rows, names = [], [*PAIRS, *PAIRS.values()]
    names += [name for name in wanted([_PYTORCH]) if name == _PYTORCH]
    for axis, sizes in SCALES.items():
        for size in sizes:
            time_steps = size if axis == "time" else 28
            changed: Row = {} if axis == "time" else {axis: size}
            at_size = dataclasses.replace(options, **changed)
            # About the same work for each point, and at least two steps.
            gates, features = GATES[options.cell], 784 // time_steps
            flops = step_flops(1, time_steps, features, at_size.hidden, gates=gates)
            examples = int(min(len(train), 1e11 / flops))
            examples = max(2, examples // at_size.batch_size) * at_size.batch_size
            inputs = train.inputs[:examples].reshape(-1, time_steps, 784 // time_steps)
            split = Split(inputs, np.asarray(train.labels)[:examples])
            with saved(split, test) as data:
                seconds, _ = take_turns(names, data, at_size, repeats)
            row: Row = {"axis": axis, "size": size}
            row |= {name: float(np.median(values)) / examples for name, values in seconds.items()}
            # Taken in each round, in which both see the machine in the same state.
            row |= {
                f"{ours} ratio": float(np.median(np.divide(seconds[theirs], seconds[ours])))
                for ours, theirs in PAIRS.items()
            }
            rows.append(row)
            found = [
                f"{ours} {1e6 * row[ours]:.1f}, {theirs} {1e6 * row[theirs]:.1f}, "
                f"ratio {row[f'{ours} ratio']:.2f}"
                for ours, theirs in PAIRS.items()
            ]
            found += [f"{name} {1e6 * row[name]:.1f}" for name in names[2 * len(PAIRS) :]]
            print(f"{axis} {size}: microseconds per example: {'; '.join(found)}", flush=True)
    for ours, theirs in PAIRS.items():
        ratio = f"{ours} ratio"
        least = min(rows, key=lambda row: row[ratio])
        print(
            f"smallest ratio of {theirs} to {ours}: {least[ratio]:.2f} ×, at {least['axis']} "
            f"{least['size']}"
        )
    return rows


def measure_processes(common: Sequence[str], batch_size: int) -> list[Row]:
    """Compare N processes of one device each with one process of N devices."""
    rows = []
    share = max(PROCESSES)
    batch = ["--batch-size", str(-(-batch_size // share) * share)]
    for count in PROCESSES:
        single = run_experiment([*common, *batch, "--devices", str(count)])
        several = single
        if count > 1:
            several = run_experiment([*common, *batch, "--devices", "1"], processes=count)
        row = {"axis": "processes", "size": count}
        rows.append({**row, "one process": single, "several processes": several})
        print(
            f"{count} devices: microseconds per example: in one process {1e6 * single:.1f}, "
            f"in {count} {1e6 * several:.1f}",
            flush=True,
        )
    return rows


def measure_stream(common: Sequence[str], batch_size: int) -> list[Row]:
    """Compare data in memory with streamed data, taking turns."""
    kinds = {"memory": [], "stream": ["--stream"], "one worker": ["--stream", "--workers", "1"]}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(3):
        for kind, words in kinds.items():
            batch = ["--batch-size", str(batch_size)]
            seconds[kind].append(run_experiment([*common, *batch, *words]))
    row: Row = {kind: float(np.median(values)) for kind, values in seconds.items()}
    for kind in ("stream", "one worker"):
        row[f"{kind} ratio"] = float(np.median(np.divide(seconds[kind], seconds["memory"])))
    print(
        f"data in memory: {1e6 * row['memory']:.1f} microseconds per example; streamed by a thread "
        f"{1e6 * row['stream']:.1f} ({row['stream ratio']:.3f} ×), by a process "
        f"{1e6 * row['one worker']:.1f} ({row['one worker ratio']:.3f} ×)"
    )
    return [{"axis": "data", **row}]


def run_experiment(words: Sequence[str], *, processes: int = 1) -> float:
    """Return the median seconds per example of the epochs of a run, except the first."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.mnist_rnn", "keras", *words]
        command += ["--drop-remainder", "--validation", "None", "--test", "test[:100]"]
        command += ["--workdir", f"{folder}/run"]
        if processes > 1:
            with socket.create_server(("localhost", 0)) as unused:
                command += ["--coordinator", f"localhost:{unused.getsockname()[1]}"]
            command += ["--distributed", "--processes", str(processes), "--process"]
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
            cores = sorted(os.sched_getaffinity(0))  # each process on its own, as launchers do
            for number, process in enumerate(running):
                os.sched_setaffinity(process.pid, {cores[number % len(cores)]})
        printed = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise RuntimeError(f"{' '.join(command)} failed:\n" + "\n".join(printed))
        seconds = History.from_csv(f"{folder}/run/history.csv")["seconds"]
    examples = int(printed[0].partition(" training examples")[0].split()[-1].replace(",", ""))
    batch_size = int(command[command.index("--batch-size") + 1])
    return float(np.median(seconds[1:])) / (examples // batch_size * batch_size)
