"""Run a contender in its own process, with thread pools and memory of its own.

    python -m experiments.benchmark.process CONTENDER DATA.npz OPTIONS

It builds the contender; then it trains an epoch for every line ``epoch`` on standard input, and
tests for any other line.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TypeAlias

import numpy as np

from experiments.benchmark.contenders import CONTENDERS
from experiments.benchmark.protocol import Options
from jaxrnn import Split

Ask: TypeAlias = Callable[[str], dict[str, float]]


@contextmanager
def saved(train: Split, test: Split) -> Iterator[str]:
    """Write the data to a file that every contender's process reads."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            f"{folder}/data.npz",
            images=train.inputs,
            labels=np.asarray(train.labels),
            test_images=test.inputs,
            test_labels=np.asarray(test.labels),
        )
        yield f"{folder}/data.npz"


@contextmanager
def contender(name: str, data: str, options: Options) -> Iterator[Ask]:
    """Start a contender and yield a function that asks it to train an ``epoch`` or to ``test``."""
    _, _, environment = CONTENDERS[name]
    command = [sys.executable, "-m", __name__, name, data, json.dumps(asdict(options))]
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

        def ask(what: str) -> dict[str, float]:
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write(f"{what}\n")
                process.stdin.flush()
                answer: dict[str, float] = json.loads(process.stdout.readline())
                return answer
            except (BrokenPipeError, json.JSONDecodeError) as error:
                process.wait()
                errors.seek(0)
                raise RuntimeError(f"{name} failed:\n{errors.read()}") from error

        try:
            yield ask
        finally:
            process.kill()
            process.communicate()


def main() -> None:
    """Run the contender's side."""
    name, data, options = sys.argv[1:]
    # Whatever libraries print goes to stderr; stdout is for the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with np.load(data) as arrays:
        images, labels = arrays["images"], arrays["labels"]
        test_images, test_labels = arrays["test_images"], arrays["test_labels"]
    build, _, _ = CONTENDERS[name]
    epoch, predict = build(images, labels, Options(**json.loads(options)))
    for line in sys.stdin:
        if line.strip() != "epoch":
            accuracy = float(np.mean(np.asarray(predict(test_images)) == test_labels))
            print(json.dumps({"accuracy": accuracy}), file=answers)
            continue
        start = time.perf_counter()
        epoch()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak}), file=answers)


if __name__ == "__main__":
    main()
