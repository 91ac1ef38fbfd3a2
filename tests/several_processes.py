"""Runs on several processes of this machine, each forked; ``tests.runs.test_processes``.

Nothing here may touch a device before the last fork.

python -m tests.several_processes SCENARIO FOLDER
"""

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
import pytest

import jaxrnn
from tests.kill_runs import end_of, fork, log_of, logs, run_to_the_end, start

SMALL = ["--hidden", "12", "--test", "test[:200]", "--train", "train[:640]"]


def assert_close(a: jaxrnn.History, b: jaxrnn.History) -> None:
    """The same curves to 1e-5."""
    assert len(a) == len(b)
    for row, other in zip(a, b, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(other[name], abs=1e-5), name


def four_are_one(folder: Path) -> None:
    """One process with four devices, four with one each."""
    run = ["keras", *SMALL, "--epochs", "3", "--batch-size", "60"]  # leaves a batch of 40
    run += ["--validation", "test[200:330]"]
    run_to_the_end(folder / "one", 1, run, 4)
    run_to_the_end(folder / "four", 4, run, 4)
    one = jaxrnn.load_run(folder / "one")
    results = (folder / "one" / "results.json").read_text()
    accuracy = next(line for line in results.splitlines() if '"test_accuracy"' in line)
    assert_close(jaxrnn.load_run(folder / "four").history, one.history)
    assert accuracy in (folder / "four" / "results.json").read_text()
    prints = [log_of(folder / "four", n).read_text().count("epoch") for n in range(4)]
    assert prints == [3, 0, 0, 0], "only the first one prints"
    left = {path.name for path in (folder / "four").iterdir()}
    assert left == {path.name for path in (folder / "one").iterdir()}


def tasks(folder: Path) -> None:
    """Every task on two processes gives the numbers of the plain loop."""
    with socket.create_server(("localhost", 0)) as unused:
        coordinator = f"localhost:{unused.getsockname()[1]}"
    children = [os.fork() or train_tasks(folder, coordinator, process) for process in range(2)]
    assert end_of(children, folder / "tasks", 200) == [0, 0]
    from tests.test_tasks import CASES, KEY, assert_same, case, plain_loop

    for name in CASES:
        split, state = case(name)
        with np.load(folder / f"{name}.npz") as arrays:
            leaves = [arrays[array] for array in arrays]
        params = jax.tree.unflatten(jax.tree.structure(state.params), leaves)
        history = json.loads((folder / f"{name}.json").read_text())
        found = state.replace(params=params), history
        assert_same(found, plain_loop(state, split, KEY, batch_size=32))


def train_tasks(folder: Path, coordinator: str, process: int) -> NoReturn:
    """One of two processes; the first leaves parameters and curves."""
    status = 1
    try:
        jax.distributed.initialize(coordinator, 2, process)
        from tests.test_tasks import CASES, KEY, case  # which creates arrays

        for name in CASES:
            split, state = case(name)
            state, history = jaxrnn.fit(
                state, split, key=KEY, batch_size=32, epochs=2, evals={"test": split}
            )
            leaves = jaxrnn.parallel.to_host(jax.tree.leaves(state.params))
            if not process:
                np.savez(folder / f"{name}.npz", *leaves)
                (folder / f"{name}.json").write_text(json.dumps(list(history)))
        jax.distributed.shutdown()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def stopped_and_resumed(folder: Path) -> None:
    """A signal to one of two processes ends both; the run goes on in four, then in one."""
    run = ["keras", *SMALL, "--batch-size", "64", "--validation", "None", "--stream"]
    run += ["--steps-per-epoch", "7"]  # ten are a pass
    run_to_the_end(folder / "whole", 1, [*run, "--epochs", "14"], 4)
    children = start(folder / "run", 2, [*run, "--epochs", "10"], 4)
    while "epoch 3/" not in log_of(folder / "run").read_text():
        time.sleep(0.01)
        assert os.waitpid(children[0], os.WNOHANG) == (0, 0), logs(folder / "run")
    os.kill(children[1], signal.SIGTERM)
    statuses = end_of(children, folder / "run", 60)
    assert statuses == [128 + signal.SIGTERM] * 2, logs(folder / "run")
    assert "stopped; earlier epochs are saved in" in log_of(folder / "run").read_text()
    run_to_the_end(folder / "run", 4, [*run, "--epochs", "10"], 4)
    run_to_the_end(folder / "run", 1, [*run, "--epochs", "14"], 4)
    assert log_of(folder / "run").read_text().count("resuming after epoch") == 2
    histories = [jaxrnn.load_run(folder / name).history for name in ("run", "whole")]
    assert_close(*histories)


def many_networks(folder: Path) -> None:
    """Four seeds, divided among two processes; of a finished run, both say that it is one."""
    run = ["fast", *SMALL, "--epochs", "2", "--seeds"]
    run_to_the_end(folder / "one", 1, [*run, "4"], 2)
    run_to_the_end(folder / "two", 2, [*run, "4"], 2)
    again = end_of(start(folder / "two", 2, [*run, "4"], 2), folder / "two", 60)
    assert again == [2, 2]
    assert "holds a finished run of 2 epochs" in log_of(folder / "two", 1).read_text()
    pairs = [jaxrnn.load_run(folder / name).history for name in ("one", "two")]
    for one, two in zip(*pairs, strict=True):
        assert_close(one, two)


def launchers(folder: Path) -> None:
    """Who the processes are is found in what SLURM and Open MPI tell them."""
    run = ["fast", *SMALL, "--epochs", "1", "--devices", "1", "--distributed", "--workdir"]
    # Of the last 4,096 ports JAX takes the one of the job's number, under SLURM and Open MPI alike.
    job = random.randrange(4096)
    for launcher in ("slurm", "mpi"):
        children = []
        for process in range(2):
            os.environ.update(environment(launcher, process, job))
            log = log_of(folder / launcher, process)
            children.append(fork([*run, str(folder / launcher)], log))
        for name in environment(launcher, 0, job):
            del os.environ[name]
        statuses = end_of(children, folder / launcher, 120)
        assert statuses == [0, 0], logs(folder / launcher)
        assert "on 2 × cpu" in log_of(folder / launcher).read_text()


def environment(launcher: str, process: int, job: int) -> dict[str, str]:
    """What a launcher says to one of two processes on this machine."""
    if launcher == "slurm":
        return {
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(process),
            "SLURM_LOCALID": str(process),
        }
    return {
        "OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
    }


def no_others(folder: Path) -> None:
    """A process whose first one never comes says so, and does not wait for ever."""
    arguments = ["fast", "--distributed", "--coordinator", "localhost:9", "--processes", "2"]
    arguments += ["--process", "1", "--heartbeat", "1", "--workdir", str(folder / "run")]
    child = fork(arguments, log_of(folder / "run"))
    assert end_of([child], folder / "run", 60) == [2]
    said = log_of(folder / "run").read_text()
    assert "--distributed: the processes were not found: nothing listens at localhost:9" in said
    assert not (folder / "run").exists()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
