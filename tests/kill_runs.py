"""Kill real runs with SIGKILL at random moments, resume each, and compare bit for bit.

    python -m tests.kill_runs [KILLS [SEED [PROCESSES]]]

Each run is a process forked from this one, which has imported everything but used no device, so
that runs are killed at work and not while importing. Of several processes one is killed, and the
others must end by themselves.
"""

import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import chex
import jax
import orbax.checkpoint  # noqa: F401

import jaxrnn
from experiments.mnist_rnn import PRESETS

HEARTBEAT = 10  # seconds
RUN = [
    *("keras", "--epochs", "24", "--hidden", "12", "--batch-size", "64"),
    *("--train", "train[:640]", "--validation", "train[640:900]", "--test", "test[:200]"),
]


def forked(function: Callable[..., object], *arguments: Any) -> ForkProcess:
    """Call a function in a process of its own."""
    child = get_context("fork").Process(target=function, args=arguments)
    child.start()
    return child


def run_page(arguments: list[str], log: Path) -> None:
    """Run the command line; what it prints is added to ``log``."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    jaxrnn.main(PRESETS, default="fast", arguments=arguments)
    if "--distributed" in arguments:
        jax.distributed.shutdown()  # waits for the others, as leaving Python does


def unused_address() -> str:
    """An address where nothing listens yet."""
    with socket.create_server(("localhost", 0)) as unused:
        return f"localhost:{unused.getsockname()[1]}"


def start(
    workdir: Path, processes: int = 1, arguments: Sequence[str] = RUN, devices: int = 2
) -> list[ForkProcess]:
    """Run the experiment in processes that share the devices."""
    words = [*arguments, "--devices", str(devices // processes or 1), "--workdir", str(workdir)]
    if processes > 1:
        words += ["--distributed", "--coordinator", unused_address(), "--heartbeat", str(HEARTBEAT)]
        words += ["--processes", str(processes), "--process"]
    each = [[*words, str(number)] if processes > 1 else words for number in range(processes)]
    return [forked(run_page, each[number], log_of(workdir, number)) for number in range(processes)]


def log_of(workdir: Path, process: int = 0) -> Path:
    """What a process of a run has printed."""
    return Path(f"{workdir}.{process}.log")


def logs(workdir: Path) -> str:
    """What all processes of a run have printed."""
    return "\n".join(path.read_text() for path in sorted(workdir.parent.glob(f"{workdir.name}.*")))


def end_of(children: Sequence[ForkProcess], workdir: Path, seconds: float) -> list[int | None]:
    """The exit statuses of processes that have to end in time, or ``AssertionError``."""
    deadline = time.monotonic() + seconds
    for child in children:
        child.join(max(0, deadline - time.monotonic()))
    late = [child for child in children if child.is_alive()]
    for child in late:
        child.kill()
    assert not late, f"{workdir.name} did not end:\n{logs(workdir)}"
    return [child.exitcode for child in children]


def run_to_the_end(workdir: Path, *how: Any) -> None:
    """Raise ``RuntimeError``, with what it printed, unless the run ends well."""
    statuses = end_of(start(workdir, *how), workdir, 300)
    if any(statuses):
        raise RuntimeError(f"{workdir.name} ended with {statuses}:\n{logs(workdir)}")


def kill_after(seconds: float, workdir: Path, processes: int, victim: int) -> None:
    """Start a run and kill one of its processes; the others end, and say why."""
    children = start(workdir, processes)
    time.sleep(seconds)
    children[victim].kill()
    statuses = end_of(children, workdir, 3 * HEARTBEAT + 30)
    if (workdir / "results.json").exists():
        return
    assert all(statuses), f"{workdir.name}: others ended with {statuses}:\n{logs(workdir)}"
    for process in set(range(processes)) - {victim}:
        check_lost(workdir, process)


def check_lost(workdir: Path, process: int) -> None:
    """Whether a process has said that it ends because another one did."""
    said = log_of(workdir, process).read_text()
    # Our message if a step failed; JAX's own if one of its threads noticed first.
    clear = "lost the others", "were not found", "JAX distributed service"
    assert any(words in said for words in clear), said


def assert_same_run(run: Any, other: Any) -> None:
    """The same bits of state and curves of two stored runs."""
    chex.assert_trees_all_equal(jax.tree.leaves(run.state), jax.tree.leaves(other.state))
    assert curves(run.history) == curves(other.history)


def curves(history: jaxrnn.History) -> list[dict[str, float]]:
    """The rows of a history, without timings."""
    return [{**row, "seconds": 0} for row in history]


def main(kills: int = 20, seed: int = 0, processes: int = 1) -> None:
    """Kill, resume and compare, ``kills`` times."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_to_the_end(folder / "warm-up", processes)  # prepares the data and compiles
        begin = time.perf_counter()
        run_to_the_end(folder / "whole", processes)
        duration = time.perf_counter() - begin

        saved: Counter[str] = Counter()
        workdirs = [folder / f"kill-{number}" for number in range(kills)]
        for workdir in workdirs:
            victim = generator.randrange(processes)
            kill_after(generator.uniform(0, duration), workdir, processes, victim)
            checkpoints = workdir.glob("checkpoints/[1-9]*")
            newest = max((int(path.name) for path in checkpoints), default=0)
            if (workdir / "results.json").exists():
                saved["after the end"] += 1
                continue
            saved["before the first checkpoint" if not newest else "with checkpoints"] += 1
            saved["while saving"] += (workdir / "checkpoints" / ".partial").exists()
            run_to_the_end(workdir, processes)
            said = f"resuming after epoch {newest}\n" in log_of(workdir).read_text()
            assert said == (newest > 0), f"{workdir.name} did not resume from epoch {newest}"

        whole = jaxrnn.load_run(folder / "whole")
        for workdir in workdirs:
            assert_same_run(jaxrnn.load_run(workdir), whole)
            assert not [*workdir.rglob(".*")], workdir.name
    where = ", ".join(f"{count} {what}" for what, count in sorted(saved.items()))
    print(f"{kills} of {kills} killed runs ended with the same bits; killed {where}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
