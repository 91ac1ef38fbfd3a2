"""Measure the memory of training: on a stream, as data grows, and on long sequences.

    python -m experiments.memory [--sizes 200000 2000000] [--data-dir DIR]
    python -m experiments.memory --lengths 784 4096 16384

With --lengths it measures long sequences instead: the temporary memory that XLA plans for a
training step and the time of the step, on the copying task (batches of 50, 128 units, one device),
without and with each option that saves memory. Chunks and pieces are as long as the square root of
the length.

Otherwise, for each size, random pixels are written to a file (2,000,000 images are 1.5 GiB), and a
separate process trains on them, memory-mapped, for the same number of steps. Only its anonymous
memory is measured, as the system can drop the mapped file from memory at any time. It grows only
with the data order: 4 bytes per example, about 40 while the order is computed. Linux only.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np
import tyro

import jaxrnn
from experiments.copying import PRESETS
from jaxrnn.data import Copying
from jaxrnn.training import StepOptions

BATCH_SIZE = 150
EPOCHS = 4
AT_ONCE = 10_000  # images


@dataclass(frozen=True)
class Config:
    """What to measure."""

    sizes: tuple[int, ...] = (200_000, 2_000_000)
    """Number of examples of each dataset."""
    steps: int = 1200
    """Number of training steps, whatever the size."""
    data_dir: Path | None = None
    """Directory of the datasets; None for a temporary one."""
    lengths: tuple[int, ...] = ()
    """Sequence lengths to measure on the copying task, instead of sizes of datasets."""


def write(path: Path, size: int) -> None:
    """Write random images of MNIST's size to a ``.npy`` file."""
    generator = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (size, 28, 28))
    for start in range(0, size, AT_ONCE):
        part = images[start : start + AT_ONCE]
        part[:] = generator.integers(0, 256, part.shape, np.uint8)
    images.flush()


def anonymous_bytes() -> int:
    """Return the anonymous resident memory of this process."""
    found = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(path: str, steps: int) -> dict[str, float]:
    """Train on a stream in this process; return its peak memory and examples per second."""
    images = np.load(path, mmap_mode="r")
    source = jaxrnn.Split(images, np.broadcast_to(np.int32(0), len(images)))
    init_key, data_key = jax.random.split(jax.random.key(0))
    batches = jaxrnn.stream(
        source,
        batch_size=BATCH_SIZE,
        key=data_key,
        drop_remainder=True,
        steps_per_epoch=steps // EPOCHS,
    )
    state = jaxrnn.create_train_state(init_key, jaxrnn.RNNModel(), jaxrnn.Adam().build(), images)
    peak, finished = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not finished.wait(0.01):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    trainer = jaxrnn.TrainerConfig(epochs=EPOCHS, batch_size=BATCH_SIZE)
    _, history = jaxrnn.fit(state, batches, trainer)
    finished.set()
    watcher.join()
    examples = EPOCHS * batches.examples_per_epoch
    return {"bytes": peak[0], "examples_per_second": examples / history["seconds"].sum()}


def measure_lengths(lengths: Sequence[int], repeats: int = 3) -> None:
    """Print a row of a Markdown table for each length and option."""
    print("| time steps | option | MiB | seconds per step |\n|---|---|---|---|")
    experiment, batch_size = PRESETS["elman"], 50
    for time in lengths:
        data = Copying(examples=batch_size, held_out=1, delay=time - 20).build()
        split: Any = data.train
        state = jaxrnn.create_train_state(
            0, experiment.model.build(data.outputs), experiment.optimizer.build(1), split.inputs
        )
        size = round(time**0.5)
        for option, value in {"": 0, "accumulate": 5, "truncate": size, "remat": size}.items():
            options = StepOptions(**({option: value} if option else {}))
            train = partial(jaxrnn.train_epoch.lower, state, split, jax.random.key(0))
            program: Any = train(batch_size=batch_size, options=options).compile()
            seconds = []
            for _ in range(repeats):
                start = perf_counter()
                jax.block_until_ready(program(state, split, jax.random.key(0)))
                seconds.append(perf_counter() - start)
            mebibytes = program.memory_analysis().temp_size_in_bytes / 2**20
            shown = f"`--{option} {value}`" if option else ""
            print(f"| {time:,} | {shown} | {mebibytes:,.0f} | {np.median(seconds):.2f} |")


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
        return
    config = tyro.cli(Config, prog="python -m experiments.memory", description=__doc__)
    if min(config.lengths, default=100) < 100:
        print("error: --lengths must be at least 100", file=sys.stderr)
        raise SystemExit(2)
    if config.lengths:
        measure_lengths(config.lengths)
        return
    if min(config.sizes) < BATCH_SIZE or config.steps < EPOCHS:
        message = f"error: --sizes must be at least {BATCH_SIZE} and --steps at least {EPOCHS}"
        print(message, file=sys.stderr)
        raise SystemExit(2)
    for size in config.sizes:
        with tempfile.TemporaryDirectory(dir=config.data_dir) as folder:
            path = Path(folder, "images.npy")
            write(path, size)
            command = [sys.executable, "-m", "experiments.memory", "measure", path, config.steps]
            words = list(map(str, command))
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{size:,} examples, {size * 784 / 2**20:,.0f} MiB of pixels: "
            f"anonymous memory {measured['bytes'] / 2**20:,.0f} MiB, "
            f"{measured['examples_per_second']:,.0f} examples/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
