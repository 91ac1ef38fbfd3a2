"""One run on many processes: who they are, who of them writes, and how they end together."""

import contextlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.configuration import Config
from experiments.workdir import open_workdir

_MESSAGE = 8192  # bytes; collectives move arrays of a size that all know


class Stopped(SystemExit):
    """All processes have agreed to end here, with a status that is not 0."""


@contextlib.contextmanager
def processes(config: Config) -> Iterator[None]:
    """Join the other processes of the run, if it has some, and leave them as one should.

    JAX finds out where the first process is, how many there are and which this one is (SLURM, Open
    MPI, Kubernetes, TPU pods), or is told. When all are done, they wait for each other. A process
    that fails ends at once instead: the connections it leaves behind end the others.

    Raises:
      ValueError: nothing says who the processes are, or they do not find each other.
    """
    if not config.distributed:
        yield
        return
    # It would take SIGTERM away from Python, and only note it.
    jax.config.update("jax_enable_preemption_service", False)
    patience = 3 * config.heartbeat  # JAX's own ratio of the two
    try:
        if config.coordinator and config.process:
            wait_for(config.coordinator, patience)
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=config.heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        hint = "" if config.coordinator else "; name --coordinator, --processes and --process"
        raise ValueError(f"--distributed: the processes were not found: {error}{hint}") from error
    try:
        yield
    except Stopped:
        jax.distributed.shutdown()  # a meeting: what the first one still saves, it saves
        raise
    except SystemExit as error:
        if error.code:
            _end(error.code if isinstance(error.code, int) else 1)
        raise
    except BaseException:
        traceback.print_exc()
        _end(1)


def wait_for(address: str, seconds: float) -> None:
    """Return when something listens there: JAX aborts the process where nobody comes.

    Raises:
      ValueError: nobody came in time.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=seconds).close()
            return
        except (OSError, OverflowError) as error:  # not yet; or its name is not known yet
            if time.monotonic() > deadline:
                raise ValueError(f"nobody listens at {address} ({error})") from error
        time.sleep(0.2)


def _end(status: int) -> None:
    """Now: where this process failed, the others don't come to the meeting at the end."""
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(1)  # others may be ending for the same reason, and JAX aborts them without it
    os._exit(status)


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def say(message: str) -> None:
    """Print it once."""
    if is_first():
        print(message, flush=True)


def from_first(function: Callable[[], Any]) -> Any:
    """What the first process gets from ``function``, JSON; it is not called in the others.

    Raises:
      ValueError: in all of them, where the first raises it or an ``OSError``.
    """
    if jax.process_count() == 1:
        return function()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer["value"] = function()
        except (ValueError, OSError) as error:
            answer["error"] = str(error)[: _MESSAGE // 8]
    message = np.zeros(_MESSAGE, np.uint8)
    text = json.dumps(answer).encode()
    message[: len(text)] = np.frombuffer(text, np.uint8)
    answer = json.loads(bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0"))
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["value"]


@contextlib.contextmanager
def shared_workdir(config: Config) -> Iterator[Path]:
    """:func:`experiments.workdir.open_workdir` in the first process; its path in all."""
    with contextlib.ExitStack() as held:
        yield Path(from_first(lambda: str(held.enter_context(open_workdir(config)))))
