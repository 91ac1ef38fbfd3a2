"""Early ends of a run: by signals, and by errors, with advice on what to do."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrnn.data.reading import STOPPING
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.training import NonFiniteLossError, Record


class Interruption:
    """The first signal that was received, if any; a hook that stops :func:`jaxrnn.fit` then."""

    received: int | None = None

    def __call__(self, record: Record) -> bool:
        """Return whether a signal was received."""
        return self.received is not None

    @property
    def exit_status(self) -> int:
        """128 plus the number of the received signal, as in shells; a collective over processes."""
        received = self.received or 0
        if jax.distributed.is_initialized():
            received = int(np.max(multihost_utils.process_allgather(np.array(received))))
        return 128 + (received or signal.SIGTERM)


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Record and report the first signal that asks to stop; end the process on a second SIGINT.

    Signals of ``STOPPING`` that are already handled or ignored, as SIGHUP is under nohup, are left
    alone. Python runs signal handlers only between its own instructions, and a call into XLA can
    take long, so a thread waits for the byte that the interpreter's C handler writes at once.
    """
    state = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield state  # Python handles signals in its main thread only
        return
    default = [number for number in STOPPING if signal.getsignal(number) == signal.SIG_DFL]
    taken = {signal.SIGINT, signal.SIGTERM, *default}
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def watch() -> None:
        while number := int.from_bytes(reading.recv(1)):
            if number in taken and state.received is None:
                state.received = number
                name = signal.Signals(number).name
                advice = "stopping after this epoch; press Ctrl-C (again) to stop at once"
                if name == "SIGHUP":
                    _leave_terminal()
                with contextlib.suppress(OSError):  # stderr may be closed
                    print(f"\n{name}: {advice}", file=sys.stderr, flush=True)
            elif number == signal.SIGINT:
                os._exit(128 + number)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    previous = {number: signal.signal(number, lambda *_: None) for number in taken}
    previous_descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        yield state
    finally:
        signal.set_wakeup_fd(previous_descriptor)
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        writing.close()  # which ends the watcher
        watcher.join()
        reading.close()


def _leave_terminal() -> None:
    """Discard output to a closed terminal, since writing to it would fail."""
    for stream in (1, 2):
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(nowhere.fileno(), stream)


class Advice(str):
    """A note of an error in training that says what to do."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Convert Grain's ``RuntimeError`` for a reader process that ended to ``OSError``."""
    try:
        yield
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        hint, shared = "", Path("/dev/shm")  # which passes data between processes
        if shared.is_dir() and (free := shutil.disk_usage(shared).free) < 2**28:
            hint = f"; /dev/shm has only {free // 2**20} MiB left"
        raise OSError(f"a process that reads data has ended{hint}: {error}") from error


@contextlib.contextmanager
def explained(checkpoints: Checkpoints, resume: str) -> Iterator[None]:
    """Add advice to an error in training."""
    try:
        yield
    except Exception as error:
        if checkpoints.epochs:
            error.add_note(Advice(f"earlier epochs are saved in {checkpoints.folder.parent}"))
        diverged = isinstance(error, NonFiniteLossError)
        lower = "try a lower --learning-rate or --clip-norm, in another directory"
        error.add_note(Advice(lower if diverged else resume))
        raise
