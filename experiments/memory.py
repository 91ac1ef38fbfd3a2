"""Host memory of training on a stream, against the size of the set: it must not grow with it.

    python -m experiments.memory [--sizes 200000 2000000] [--data-dir DIR]

For each size, examples of random pixels are prepared once as a tfds dataset (2,000,000 are 1.5 GiB
and take a minute or two), and a process of its own trains on them for as many steps.
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
from jaxrnn.datasets import FAMILY, IdxImages

BATCH_SIZE = 150
PART = 500_000  # examples


@dataclass(frozen=True)
class Config:
    """What is measured."""

    sizes: tuple[int, ...] = (200_000, 2_000_000)
    """Examples of each set."""
    steps: int = 1200
    """Trained for, whatever the size."""
    data_dir: Path | None = None
    """Where the sets are kept; None for a temporary folder."""


def builder_of(size: int) -> type[IdxImages]:
    """A dataset of MNIST's features whose pixels and labels are random."""

    mnist: Any = FAMILY["mnist"]

    class Generated(mnist):
        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            # Of a larger split tfds keeps a part on disk, for which it wants TensorFlow.
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
    """Train on a stream in this process; its peak memory, and examples a second."""
    FAMILY[f"generated_{size}"] = builder_of(size)
    source = jaxrnn.Source(f"generated_{size}", split="all", data_dir=data_dir)
    init_key, data_key = jax.random.split(jax.random.key(0))
    batches = jaxrnn.stream(
        source, batch_size=BATCH_SIZE, key=data_key, drop_remainder=True, steps_per_epoch=steps // 4
    )
    state = jaxrnn.create_train_state(
        init_key, jaxrnn.RNNClassifier(), jaxrnn.make_optimizer(), source.read([0])["inputs"]
    )
    clock = jaxrnn.Clock()
    jaxrnn.fit(state, batches, epochs=4, clock=clock)
    return {
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "examples_per_second": 4 * batches.examples_per_epoch / clock.seconds["training"],
    }


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["measure"]:
        size, steps, data_dir = sys.argv[2:]
        print(json.dumps(measure(int(size), int(steps), data_dir)))
        return
    config = tyro.cli(Config, prog="python -m experiments.memory", description=__doc__)
    if min(config.sizes) < BATCH_SIZE or config.steps < 4:
        print(f"error: sizes are at least {BATCH_SIZE}, steps at least 4", file=sys.stderr)
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
