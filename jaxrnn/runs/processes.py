"""The session of a run: its devices, and the coordination of its processes."""

import contextlib
import importlib.util
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs
from jax.experimental import multihost_utils

from jaxrnn.files import Json
from jaxrnn.runs.config import RuntimeConfig
from jaxrnn.training.sharding import use_cpu_cores

_MESSAGE = 2**16  # bytes, as collectives move arrays of a fixed size


class Stopped(SystemExit):
    """The run was stopped by a signal; all processes have agreed to end here."""


class LostProcessesError(RuntimeError):
    """Other processes of the run have ended."""


@contextlib.contextmanager
def session(runtime: RuntimeConfig) -> Iterator[None]:
    """Set up devices, the compilation cache and, if there are several, the processes.

    Raises ``ValueError`` if JAX can't find or use them, and ``LostProcessesError`` if other
    processes end during the ``with`` block.
    """
    if runtime.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX; install jaxrnn's extra tensorboard")
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        directory = Path(platformdirs.user_cache_dir("jaxrnn"), "compiled")
        with contextlib.suppress(OSError):  # it can't be created: compile every time
            directory.mkdir(parents=True, exist_ok=True)
            config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with processes(runtime):
        use_cpu_cores(runtime.devices)
        try:
            alone = len(jax.local_devices()) == 1 or runtime.devices == 1
        except (RuntimeError, AssertionError) as error:
            platforms = f"JAX_PLATFORMS={config.jax_platforms}"
            message = f"JAX finds no device for {platforms}; unset it to use the available devices"
            raise ValueError(message) from error
        if config.jax_disable_jit and not alone:
            raise ValueError("with JAX_DISABLE_JIT, JAX cannot divide batches; use --devices 1")
        yield


@contextlib.contextmanager
def processes(runtime: RuntimeConfig) -> Iterator[None]:
    """Join the other processes of the run, if there are any, and leave them in an orderly way.

    Processes wait for each other at the end; if one fails, it and all others exit at once.
    """
    if not runtime.distributed:
        yield
        return
    # This service would intercept SIGTERM, and only record it.
    jax.config.update("jax_enable_preemption_service", False)
    patience = 3 * runtime.heartbeat  # JAX's default ratio of the two
    try:
        if runtime.coordinator and runtime.process:
            _wait_for(runtime.coordinator, patience)
        jax.distributed.initialize(
            runtime.coordinator,
            runtime.processes,
            runtime.process,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=runtime.heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        hint = "" if runtime.coordinator else "; give --coordinator, --processes and --process"
        raise ValueError(f"--distributed: the processes were not found: {error}{hint}") from error
    try:
        yield
    except Stopped:
        jax.distributed.shutdown()  # waits for the first process to finish saving
        raise
    except Exception as error:
        # JAX raises either kind, the second when the result of a collective is fetched.
        if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error):
            raise
        who = f"process {jax.process_index()} of {jax.process_count()}"
        lost = LostProcessesError(f"{who} ends, as it lost the others: {error}")
        lost.__notes__ = getattr(error, "__notes__", [])
        raise lost from error


def end_at_once(status: int) -> None:
    """End this process if, at an orderly end, it would wait for others."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            time.sleep(1)  # others may be ending for the same reason, and JAX would abort them
        os._exit(status)


def _wait_for(address: str, seconds: float) -> None:
    """Wait until something listens at an address, as JAX aborts the process if nothing does."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=seconds).close()
        except (OSError, OverflowError) as error:  # not listening yet, or the name is unknown yet
            if time.monotonic() > deadline:
                raise ValueError(f"nothing listens at {address} ({error})") from error
        time.sleep(0.2)


def is_first() -> bool:
    """Return whether this process writes files and prints."""
    # Alone, JAX isn't asked, as that would initialize its devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def say(message: str) -> None:
    """Print a message, in the first process."""
    if is_first():
        print(message, flush=True)


def from_first(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function in the first process, and return its result, JSON, in all of them.

    If it raises ``ValueError`` or ``OSError``, all of them raise ``ValueError``.
    """
    if not jax.distributed.is_initialized():
        return function(*arguments, **options)
    answer: Json = {}
    if is_first():
        try:
            answer["value"] = function(*arguments, **options)
        except (ValueError, OSError) as error:
            answer["error"] = str(error)[: _MESSAGE // 8]
    message = np.frombuffer(json.dumps(answer).encode().ljust(_MESSAGE), np.uint8)
    answer = json.loads(bytes(multihost_utils.broadcast_one_to_all(message)))
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["value"]
