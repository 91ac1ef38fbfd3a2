"""Runs on several processes of this machine, each forked; ``tests.runs.test_processes``.

Each scenario has a process of its own, and may not touch a device before its last fork.

python -m tests.several_processes FOLDER SCENARIO [SCENARIO ...]
"""

import json
import os
import random
import signal
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import chex
import jax
import numpy as np

import jaxrnn
from jaxrnn.files import write_atomically
from jaxrnn.runs import RuntimeConfig, results
from jaxrnn.runs.processes import processes
from tests.kill_runs import (
    HEARTBEAT,
    assert_same_run,
    check_lost,
    curves,
    end_of,
    forked,
    log_of,
    logs,
    run_page,
    run_to_the_end,
    start,
    unused_address,
)

# What a launcher says to each of two processes on this machine.
LAUNCHERS = {
    "slurm": "SLURM_JOB_ID={job} SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 "
    "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID={process} SLURM_LOCALID={process}",
    "mpi": "OMPI_MCA_orte_hnp_uri={job}.0;tcp://127.0.0.1:1 OMPI_COMM_WORLD_SIZE=2 "
    "OMPI_COMM_WORLD_RANK={process} OMPI_COMM_WORLD_LOCAL_RANK={process}",
}
SMALL = ["--hidden", "12", "--test", "test[:200]", "--train", "train[:640]"]


def assert_close(a: jaxrnn.History, b: jaxrnn.History) -> None:
    """The same curves to 1e-5."""
    chex.assert_trees_all_close(curves(a), curves(b), atol=1e-5)


def two_are_one(folder: Path) -> None:
    """One process with four devices, two with two each; two of which one is killed, and resumed."""
    run = ["keras", *SMALL, "--epochs", "8", "--batch-size", "60"]  # leaves a batch of 40
    run += ["--validation", "test[200:330]"]
    run_to_the_end(folder / "one", 1, run, 4)
    run_to_the_end(folder / "two", 2, run, 4)
    children = start_and_wait(folder / "killed", run, epoch=2)
    children[1].kill()
    assert end_of(children, folder / "killed", 3 * HEARTBEAT + 30)[0], logs(folder / "killed")
    check_lost(folder / "killed", 0)
    assert not (folder / "killed" / "results.json").exists()
    run_to_the_end(folder / "killed", 2, run, 4)
    assert "resuming after epoch" in log_of(folder / "killed").read_text()
    assert end_of(start(folder / "two", 2, run, 4), folder / "two", 60) == [2, 2]
    for process in range(2):
        assert "holds a finished run of 8 epochs" in log_of(folder / "two", process).read_text()

    one, two, killed = (jaxrnn.load_run(folder / name) for name in ("one", "two", "killed"))
    assert_close(two.history, one.history)
    assert_same_run(killed, two)
    results = json.loads((folder / "two" / "results.json").read_text())
    assert results["test_accuracy"] == one.history["test_accuracy"][-1]
    prints = [log_of(folder / "two", n).read_text().count("epoch 8/8: ") for n in range(2)]
    assert prints == [1, 0], "only the first one prints"
    left = {path.name for path in (folder / "two").iterdir()}
    assert left == {path.name for path in (folder / "one").iterdir()}


def swept(folder: Path) -> None:
    """Two processes evaluate all runs of a sweep, and the first one prints."""
    run = ["keras", *SMALL, "--validation", "None", "--epochs", "1", "--seeds", "2"]
    run_to_the_end(folder / "sweep", 1, run)
    words = ["evaluate", str(folder / "sweep"), "--distributed", "--coordinator", unused_address()]
    words += ["--processes", "2", "--process"]
    children = [
        forked(run_page, [*words, str(process)], log_of(folder / "evaluated", process))
        for process in range(2)
    ]
    assert end_of(children, folder / "evaluated", 100) == [0, 0], logs(folder / "evaluated")
    said = [log_of(folder / "evaluated", process).read_text() for process in range(2)]
    assert [text.count("test_accuracy") for text in said] == [3, 0], said  # of each, and the mean


def weights(folder: Path) -> None:
    """Steps that don't count: two processes give the numbers of one."""
    address = unused_address()
    children = [forked(train, folder / "two.npz", address, process) for process in range(2)]
    assert end_of(children, folder / "weights", 200) == [0, 0]
    train(folder / "one.npz")
    with np.load(folder / "one.npz") as one, np.load(folder / "two.npz") as two:
        chex.assert_trees_all_close(dict(one), dict(two), atol=1e-5)


def train(path: Path, coordinator: str | None = None, process: int = 0) -> None:
    """Fit in one of two processes, or alone; the first one leaves parameters and curves."""
    if coordinator:
        jax.distributed.initialize(coordinator, 2, process)
    from tests.training.test_tasks import KEY, case  # which creates arrays

    split, state = case("regression of steps")
    trainer = jaxrnn.TrainerConfig(epochs=2, batch_size=32)
    state, history = jaxrnn.fit(state, split, trainer, key=KEY, evals={"test": split})
    if not process:
        curves = {name: history[name] for name in ("train_loss", "test_rmse")}
        np.savez(path, *jax.device_get(jax.tree.leaves(state.params)), **curves)
    if coordinator:
        jax.distributed.shutdown()


def stopped_and_resumed(folder: Path) -> None:
    """A signal to one of two processes ends both; the run goes on in four, then in one."""
    run = ["keras", *SMALL, "--batch-size", "64", "--validation", "None", "--stream"]
    run += ["--steps-per-epoch", "7", "--epochs"]  # ten are a pass
    run_to_the_end(folder / "whole", 1, [*run, "12"], 4)
    children = start_and_wait(folder / "run", [*run, "10"], epoch=3)
    os.kill(children[1].pid, signal.SIGUSR1)
    statuses = end_of(children, folder / "run", 60)
    assert statuses == [128 + signal.SIGUSR1] * 2, logs(folder / "run")
    assert "stopped; earlier epochs are saved in" in log_of(folder / "run").read_text()
    run_to_the_end(folder / "run", 4, [*run, "10"], 4)
    run_to_the_end(folder / "run", 1, [*run, "12"], 4)
    assert log_of(folder / "run").read_text().count("resuming after epoch") == 2
    assert_close(*(jaxrnn.load_run(folder / name).history for name in ("run", "whole")))


def start_and_wait(workdir: Path, run: list[str], epoch: int) -> list[ForkProcess]:
    """Start a run on two processes, and wait for the end of an epoch."""
    children = start(workdir, 2, run, 4)
    while f"epoch {epoch}/" not in logs(workdir):
        time.sleep(0.01)
        assert children[0].is_alive(), logs(workdir)
    return children


def launchers(folder: Path) -> None:
    """Who the processes are is found in what SLURM and Open MPI tell them."""
    # Of the last 4,096 ports JAX takes the one of the job's number, under SLURM and Open MPI alike.
    job = random.randrange(4096)
    for launcher in LAUNCHERS:
        paths = [folder / f"{launcher}-{process}" for process in range(2)]
        children = [forked(join, launcher, n, job, path) for n, path in enumerate(paths)]
        assert end_of(children, folder / launcher, 60) == [0, 0]
        assert [path.read_text() for path in paths] == ["0 of 2", "1 of 2"]


def join(launcher: str, process: int, job: int, path: Path) -> None:
    """One of two processes, which leaves what it found out."""
    words = LAUNCHERS[launcher].format(job=job, process=process).split()
    os.environ.update(word.split("=") for word in words)
    with processes(RuntimeConfig(distributed=True)):
        path.write_text(f"{jax.process_index()} of {jax.process_count()}")
        jax.distributed.shutdown()


def no_others(folder: Path) -> None:
    """A process whose first one never comes says so, and does not wait for ever."""
    arguments = ["fast", "--distributed", "--coordinator", "localhost:9", "--processes", "2"]
    arguments += ["--process", "1", "--heartbeat", "1", "--workdir", str(folder / "run")]
    child = forked(run_page, arguments, log_of(folder / "run"))
    assert end_of([child], folder / "run", 60) == [2]
    said = log_of(folder / "run").read_text()
    assert "--distributed: the processes were not found: nothing listens at localhost:9" in said
    assert not (folder / "run").exists()


def main(folder: Path, *names: str) -> None:
    """Run scenarios at the same time, as each often waits; ``AssertionError`` if one fails."""
    results.write_figure = lambda path, figure: write_atomically(path, b"")  # drawing takes seconds
    for name in names:
        (folder / name).mkdir()
    children = {name: forked(globals()[name], folder / name) for name in names}
    for name, child in children.items():
        assert end_of([child], folder / name, 400) == [0], name


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
