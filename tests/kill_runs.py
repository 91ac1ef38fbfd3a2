"""Kill real runs with SIGKILL at random moments, resume each, and compare bit for bit.

    python -m tests.kill_runs [KILLS [SEED]]

Each run is a process of its own, forked from this one, which has imported everything and touched
no device: so the moments fall on a run's own work and not on the imports before it.
"""

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint  # noqa: F401

import jaxrnn
from experiments.mnist_rnn import main as mnist_rnn

RUN = [
    *("keras", "--epochs", "24", "--hidden", "12", "--batch-size", "64", "--devices", "2"),
    *("--train-split", "train[:640]", "--validation-split", "train[640:900]"),
    *("--test-split", "test[:200]"),
]


def start(workdir: Path) -> int:
    """Run the experiment in a process of its own; returns its id."""
    child = os.fork()
    if not child:
        log = os.open(f"{workdir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 1
        try:
            mnist_rnn([*RUN, "--workdir", str(workdir)])
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def run_to_the_end(workdir: Path) -> None:
    """Raise ``RuntimeError``, with what it printed, unless the run ends well."""
    _, status = os.waitpid(start(workdir), 0)
    if status:
        log = Path(f"{workdir}.log").read_text()
        raise RuntimeError(f"{workdir.name} ended with {status}:\n{log}")


def kill_after(seconds: float, workdir: Path) -> None:
    """Start a run and kill it."""
    child = start(workdir)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def curves(run: jaxrnn.Run) -> list[dict[str, float]]:
    """The history but for the timings."""
    return [{name: row[name] for name in row if name != "seconds"} for row in run.history]


def main(kills: int = 20, seed: int = 0) -> None:
    """Kill, resume and compare, ``kills`` times."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_to_the_end(folder / "warm-up")  # prepares the data and compiles
        begin = time.perf_counter()
        run_to_the_end(folder / "whole")
        duration = time.perf_counter() - begin

        saved: Counter[str] = Counter()
        workdirs = [folder / f"kill-{number}" for number in range(kills)]
        for workdir in workdirs:
            kill_after(generator.uniform(0, duration), workdir)
            newest = max(
                (int(path.stem) for path in workdir.glob("checkpoints/*.sha256")), default=0
            )
            if (workdir / "results.json").exists():
                saved["after the end"] += 1
                continue
            saved["before the first checkpoint" if not newest else "with checkpoints"] += 1
            run_to_the_end(workdir)
            said = f"going on after epoch {newest}\n" in Path(f"{workdir}.log").read_text()
            assert said == (newest > 0), f"{workdir.name} did not go on from epoch {newest}"

        whole = jaxrnn.load_run(folder / "whole")
        for workdir in workdirs:
            resumed = jaxrnn.load_run(workdir)
            pairs = zip(*map(jax.tree.leaves, (resumed.state, whole.state)), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)
            assert curves(resumed) == curves(whole)
            left = [path.name for path in workdir.rglob("*") if "tmp" in path.name]
            left += [path.name for path in workdir.glob(".*")]
            assert not left, left
    where = ", ".join(f"{count} {what}" for what, count in sorted(saved.items()))
    print(f"{kills} of {kills} killed runs ended with the same bits; killed {where}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
