"""Compare contenders: seconds per epoch, and seconds until an accuracy is reached."""

import dataclasses
import importlib.util
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from experiments.benchmark.contenders import CONTENDERS, SGEMM_PRODUCTS, SGEMM_SIZE
from experiments.benchmark.process import contender, saved
from experiments.benchmark.protocol import GATES, Options, Row
from experiments.benchmark.report import step_flops
from experiments.mnist_rnn import PRESETS
from jaxrnn import Split

PRESETS_EPOCHS = {f"jaxrnn {name}": PRESETS[name].trainer.epochs for name in ("fast", "sprint")}
MAX_EPOCHS = 100  # for contenders that never reach the accuracy
REST = 0.5  # seconds between turns: some thread pools spin for a while before they sleep


def wanted(only: Sequence[str]) -> list[str]:
    """Return jaxrnn and the requested contenders that are installed; sgemm comes last."""
    names = []
    for name, (_, packages, _) in CONTENDERS.items():
        if name in PRESETS_EPOCHS or (only and name not in (*only, "jaxrnn", "sgemm")):
            continue
        if all(importlib.util.find_spec(package) for package in packages):
            names.append(name)
        else:
            print(f"{name} is left out: it needs {' and '.join(packages)}")
    return names


def take_turns(
    names: Sequence[str], data: str, options: Options, repeats: int, *, show: bool = False
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Measure the seconds of each epoch and the peak memory of each contender.

    Contenders take turns, an epoch each, so that a noisy machine affects all of them alike. The
    first round warms up and doesn't count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, float] = {}
    with ExitStack() as stack:
        ask = {name: stack.enter_context(contender(name, data, options)) for name in names}
        for repeat in range(repeats + 1):
            for name in names:
                time.sleep(REST)
                answer = ask[name]("epoch")
                peaks[name] = answer["peak_rss_bytes"]
                seconds[name] += [answer["seconds"]] * (repeat > 0)
            if show:
                print(f"round {repeat} of {repeats}" + " (warm-up)" * (not repeat), flush=True)
    return seconds, peaks


def measure_peers(
    names: Sequence[str], train: Split, test: Split, options: Options, repeats: int
) -> list[Row]:
    """Measure each contender and return a row for each, jaxrnn first."""
    with saved(train, test) as data:
        seconds, peaks = take_turns(names, data, options, repeats, show=True)
    sgemm = 2 * SGEMM_SIZE**3 * SGEMM_PRODUCTS / np.median(seconds.pop("sgemm")) / 1e9
    batch_size, gates = options.batch_size, GATES[options.cell]
    steps = len(train) // batch_size
    _, time_steps, features = train.inputs.shape
    work = steps * step_flops(batch_size, time_steps, features, options.hidden, gates=gates) / 1e9
    rows = []
    for name, measured in seconds.items():
        median = float(np.median(measured))
        rows.append(
            {
                "name": name,
                "seconds_per_epoch": median,
                "seconds_min": min(measured),
                "seconds_max": max(measured),
                "examples_per_second": steps * batch_size / median,
                "gflops": work / median,
                "sgemm_fraction": work / median / sgemm,
                "peak_rss_bytes": peaks[name],
                # Taken in each round, in which both see the machine in the same state.
                "ratio": float(np.median(np.divide(measured, seconds["jaxrnn"]))),
            }
        )
    return rows


def measure_time_to_accuracy(
    names: Sequence[str],
    train: Split,
    protocol: Split,
    test: Split,
    options: Options,
    seeds: int,
    accuracy: float,
) -> list[Row]:
    """Measure the epochs and seconds that each contender needs, for each seed; None if never.

    The presets fast and sprint train on ``train``, the contenders ``names`` on ``protocol``; all
    are tested on ``test`` after every epoch, until they reach ``accuracy``.
    """
    names = [*PRESETS_EPOCHS, *(name for name in names if name != "sgemm")]
    rows: list[Row] = [{"name": name, "epochs": [], "seconds": []} for name in names]
    with saved(train, test) as whole, saved(protocol, test) as part:
        for seed in range(seeds):
            for row in rows:
                data = whole if row["name"] in PRESETS_EPOCHS else part
                with contender(row["name"], data, dataclasses.replace(options, seed=seed)) as ask:
                    seconds, reached = 0.0, None
                    for epoch in range(1, PRESETS_EPOCHS.get(row["name"], MAX_EPOCHS) + 1):
                        seconds += ask("epoch")["seconds"]
                        if ask("test")["accuracy"] >= accuracy:
                            reached = epoch
                            break
                row["epochs"].append(reached)
                row["seconds"].append(seconds if reached else None)
                after = f"{seconds:.1f} s, {reached} epochs" if reached else "never"
                print(f"seed {seed}: {row['name']}: {after}", flush=True)
                time.sleep(REST)
    for row in rows:
        for quantity in ("epochs", "seconds"):  # None counts as infinity
            values = [math.inf if value is None else value for value in row[quantity]]
            median = float(np.median(values))
            row[f"median_{quantity}"] = median if math.isfinite(median) else None
    return rows
