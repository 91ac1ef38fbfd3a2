"""Kill a sweep at random moments and continue it; it ends with the numbers of one left alone.

python -m tests.kill_sweeps [KILLS [SEED [JOBS]]]
"""

import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import orbax.checkpoint  # noqa: F401

import jaxrnn
from experiments.mnist_rnn import PRESETS
from jaxrnn.runs import RuntimeConfig, runs_of, sweep
from tests.kill_runs import assert_same_run, end_of, forked


def train(workdir: Path, jobs: int) -> None:
    """Run the sweep, or continue it."""
    keras = PRESETS["keras"]
    data = replace(keras.data, train="train[:640]", validation="train[640:900]", test="test[:200]")
    trainer = replace(keras.trainer, epochs=12, batch_size=64)
    runtime = RuntimeConfig(workdir=workdir)
    experiment = replace(keras, data=data, trainer=trainer, runtime=runtime)
    sweep(experiment, seeds=3, vary={"model.hidden": [8, 12]}, jobs=jobs)


def finish(workdir: Path, jobs: int) -> None:
    """Run the sweep to its end."""
    assert end_of([forked(train, workdir, jobs)], workdir, 300) == [0], workdir.name


def main(kills: int = 10, seed: int = 0, jobs: int = 1) -> None:
    """Kill, continue and compare."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name, "whole"), Path(name, "killed")
        finish(whole, jobs)  # prepares the data and compiles
        shutil.rmtree(whole)
        begin = time.perf_counter()
        finish(whole, jobs)
        duration, finished = time.perf_counter() - begin, []
        for _ in range(kills):
            child = forked(train, killed, jobs)
            time.sleep(generator.uniform(0, 0.5 * duration))
            child.kill()
            child.join()
            time.sleep(0.5)  # in which its workers notice
            finished.append(len([*killed.rglob("results.json")]))
        finish(killed, jobs)
        names = [path.relative_to(killed) for path in runs_of(killed)]
        assert names == [path.relative_to(whole) for path in runs_of(whole)]
        assert len(names) == 6
        for run in names:
            assert_same_run(jaxrnn.load_run(killed / run), jaxrnn.load_run(whole / run))
        left = [path for path in killed.rglob("*") if "tmp" in path.name or path.name[0] == "."]
        assert not left, left
    print(f"killed after {finished} of 6 runs; all have the same bits")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
