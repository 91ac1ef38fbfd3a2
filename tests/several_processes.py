"""Runs on several processes of this machine, each forked; ``tests.runs.test_processes``.

Each scenario has a process of its own, and may not touch a device before its last fork.

python -m tests.several_processes FOLDER SCENARIO [SCENARIO ...]
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
from jaxrnn.files import write_atomically
from jaxrnn.runs import results
from jaxrnn.runs.processes import processes
from tests.kill_runs import (
    HEARTBEAT,
    assert_same_bits,
    check_lost,
    end_of,
    fork,
    log_of,
    logs,
    run_to_the_end,
    start,
)

SMALL = ["--hidden", "12", "--test", "test[:200]", "--train", "train[:640]"]


def assert_close(a: jaxrnn.History, b: jaxrnn.History) -> None:
    """The same curves to 1e-5."""
    assert len(a) == len(b)
    for row, other in zip(a, b, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(other[name], abs=1e-5), name


def two_are_one(folder: Path) -> None:
    """One process with four devices, two with two each; two of which one is killed, and resumed."""
    run = ["keras", *SMALL, "--epochs", "8", "--batch-size", "60"]  # leaves a batch of 40
    run += ["--validation", "test[200:330]"]
    run_to_the_end(folder / "one", 1, run, 4)
    run_to_the_end(folder / "two", 2, run, 4)
    children = start_and_wait(folder / "killed", run, epoch=2)
    os.kill(children[1], signal.SIGKILL)
    assert end_of(children, folder / "killed", 3 * HEARTBEAT + 30)[0], logs(folder / "killed")
    check_lost(folder / "killed", 0)
    assert not (folder / "killed" / "results.json").exists()
    run_to_the_end(folder / "killed", 2, run, 4)
    assert "resuming after epoch" in log_of(folder / "killed").read_text()

    one, two, killed = (jaxrnn.load_run(folder / name) for name in ("one", "two", "killed"))
    assert_close(two.history, one.history)
    assert_same_bits(killed, two)
    results = json.loads((folder / "two" / "results.json").read_text())
    assert results["test_accuracy"] == one.history["test_accuracy"][-1]
    prints = [log_of(folder / "two", n).read_text().count("epoch 8/8: ") for n in range(2)]
    assert prints == [1, 0], "only the first one prints"
    left = {path.name for path in (folder / "two").iterdir()}
    assert left == {path.name for path in (folder / "one").iterdir()}


def weights(folder: Path) -> None:
    """Steps that don't count: two processes give the numbers of the plain loop."""
    with socket.create_server(("localhost", 0)) as unused:
        coordinator = f"localhost:{unused.getsockname()[1]}"
    children = [os.fork() or train(folder, coordinator, process) for process in range(2)]
    assert end_of(children, folder / "weights", 200) == [0, 0]
    from tests.test_tasks import KEY, assert_same, case, plain_loop

    split, state = case("regression of steps")
    with np.load(folder / "params.npz") as arrays:
        leaves = [arrays[array] for array in arrays]
    params = jax.tree.unflatten(jax.tree.structure(state.params), leaves)
    found = state.replace(params=params), json.loads((folder / "history.json").read_text())
    assert_same(found, plain_loop(state, split, KEY, batch_size=32))


def train(folder: Path, coordinator: str, process: int) -> NoReturn:
    """One of two processes; the first leaves parameters and curves."""
    status = 1
    try:
        jax.distributed.initialize(coordinator, 2, process)
        from tests.test_tasks import KEY, case  # which creates arrays

        split, state = case("regression of steps")
        state, history = jaxrnn.fit(
            state, split, key=KEY, batch_size=32, epochs=2, evals={"test": split}
        )
        if not process:
            np.savez(
                folder / "params.npz",
                *jaxrnn.training.sharding.to_host(jax.tree.leaves(state.params)),
            )
            (folder / "history.json").write_text(json.dumps(list(history)))
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
    run_to_the_end(folder / "whole", 1, [*run, "--epochs", "12"], 4)
    run += ["--epochs"]
    children = start_and_wait(folder / "run", [*run, "10"], epoch=3)
    os.kill(children[1], signal.SIGTERM)
    statuses = end_of(children, folder / "run", 60)
    assert statuses == [128 + signal.SIGTERM] * 2, logs(folder / "run")
    assert "stopped; earlier epochs are saved in" in log_of(folder / "run").read_text()
    run_to_the_end(folder / "run", 4, [*run, "10"], 4)
    run_to_the_end(folder / "run", 1, [*run, "12"], 4)
    assert log_of(folder / "run").read_text().count("resuming after epoch") == 2
    histories = [jaxrnn.load_run(folder / name).history for name in ("run", "whole")]
    assert_close(*histories)


def start_and_wait(workdir: Path, run: list[str], epoch: int) -> list[int]:
    """Start a run on two processes, and wait for the end of an epoch."""
    children = start(workdir, 2, run, 4)
    while f"epoch {epoch}/" not in log_of(workdir).read_text():
        time.sleep(0.01)
        assert os.waitpid(children[0], os.WNOHANG) == (0, 0), logs(workdir)
    return children


def many_networks(folder: Path) -> None:
    """Four seeds, divided among two processes; of a finished run, both say that it is one."""
    run = ["keras", *SMALL, "--validation", "None", "--epochs", "2", "--seeds"]
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
    # Of the last 4,096 ports JAX takes the one of the job's number, under SLURM and Open MPI alike.
    job = random.randrange(4096)
    for launcher in ("slurm", "mpi"):
        paths = [folder / f"{launcher}-{process}" for process in range(2)]
        children = [os.fork() or join(launcher, n, job, path) for n, path in enumerate(paths)]
        assert end_of(children, folder / launcher, 60) == [0, 0]
        assert [path.read_text() for path in paths] == ["0 of 2", "1 of 2"]


def join(launcher: str, process: int, job: int, path: Path) -> NoReturn:
    """One of two processes, which leaves what it found out."""
    status = 1
    try:
        os.environ.update(environment(launcher, process, job))
        with processes(jaxrnn.runs.RuntimeConfig(distributed=True)):
            path.write_text(f"{jax.process_index()} of {jax.process_count()}")
            jax.distributed.shutdown()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


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


def main(folder: Path, *names: str) -> None:
    """Run scenarios, one after the other; raises ``AssertionError`` after the first that fails."""
    results.write_figure = lambda path, figure: write_atomically(path, b"")  # drawing takes seconds
    for name in names:
        (folder / name).mkdir()
        child = os.fork()
        if not child:
            status = 1
            try:
                globals()[name](folder / name)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0, name


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
