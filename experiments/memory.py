"""Measure the host memory of training on a stream, which must not grow with the dataset.

    python -m experiments.memory [--sizes 200000 2000000] [--data-dir DIR]

For each size, examples of random pixels are prepared as a tfds dataset (2,000,000 are 1.5 GiB and
take a minute or two), and a separate process trains on them for the same number of steps.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jaxrnn
from jaxrnn.data.readers import FAMILY, LabelledImages

BATCH_SIZE = 150
PART = 500_000  # examples


@dataclass(frozen=True)
class Config:
    """What to measure."""

    sizes: tuple[int, ...] = (200_000, 2_000_000)
    """Number of examples of each dataset."""
    steps: int = 1200
    """Number of training steps, whatever the size."""
    data_dir: Path | None = None
    """Directory of the datasets; None for a temporary one."""


def builder_of(size: int) -> type[LabelledImages]:
    """A dataset with the features of MNIST and random pixels."""

    mnist: Any = FAMILY["mnist"]

    class Generated(mnist):
        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            # To prepare a larger split, tfds needs TensorFlow.
            parts = range(-(-size // PART))
            return {
                f"part{n}": self._generate_examples(n, min(PART, size - n * PART)) for n in parts
            }

        def _generate_examples(
            self, part: int, examples: int
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            generator = np.random.default_rng(part)
            for index in range(examples):
                image = generator.integers(0, 256, (28, 28, 1), np.uint8)
                yield index, {"image": image, "label": index % 10}

    Generated.name = f"generated_{size}"
    return Generated


def measure(size: int, steps: int, data_dir: str) -> dict[str, Any]:
    """Train on a stream in this process; returns its peak memory and examples per second."""
    FAMILY[f"generated_{size}"] = builder_of(size)
    source = jaxrnn.Source(f"generated_{size}", split="all", data_dir=data_dir)
    init_key, data_key = jax.random.split(jax.random.key(0))
    batches = jaxrnn.stream(
        source, batch_size=BATCH_SIZE, key=data_key, drop_remainder=True, steps_per_epoch=steps // 4
    )
    state = jaxrnn.create_train_state(
        init_key, jaxrnn.RNNModel(), jaxrnn.Adam().build(), source.read([0])["inputs"]
    )
    _, history = jaxrnn.fit(state, batches, epochs=4)
    return {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "examples_per_second": 4 * batches.examples_per_epoch / history["seconds"].sum(),
    }


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["measure"]:
        size, steps, data_dir = sys.argv[2:]
        print(json.dumps(measure(int(size), int(steps), data_dir)))
        return
    config = tyro.cli(Config, prog="python -m experiments.memory", description=__doc__)
    if min(config.sizes) < BATCH_SIZE or config.steps < 4:
        print(
            f"error: --sizes must be at least {BATCH_SIZE} and --steps at least 4", file=sys.stderr
        )
        raise SystemExit(2)
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = str(config.data_dir or temporary)
        for examples in config.sizes:
            builder = builder_of(examples)(data_dir=data_dir)
            builder.download_and_prepare(file_format="array_record")
            command = [sys.executable, "-m", "experiments.memory", "measure"]
            command += [str(examples), str(config.steps), data_dir]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{examples:,} examples, {examples * 784 / 2**20:,.0f} MiB of pixels: "
                f"peak memory {found['peak_rss_bytes'] / 2**20:,.0f} MiB, "
                f"{found['examples_per_second']:,.0f} examples/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
