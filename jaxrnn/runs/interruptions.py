"""Early ends of a run: by signals, and by errors, with advice on what to do."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.training.fitting import Record
from jaxrnn.training.metrics import NonFiniteLossError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """The first signal that was received, if any; a hook that stops :func:`jaxrnn.fit` then."""

    received: int | None = None

    def __call__(self, record: Record) -> bool:
        """Return whether a signal was received."""
        return self.received is not None

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal, as in shells; of SIGTERM if another process got it."""
        return 128 + (self.received or signal.SIGTERM)


_current: Interruption | None = None


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Record and report a first SIGINT or SIGTERM; end the process on a second SIGINT.

    Python runs signal handlers between its own instructions, but a call into XLA takes long.
    Therefore a thread waits for the byte that the interpreter's C handler writes at once.

    Nested ``with`` blocks, as in the runs of a sweep, share the state of the outer one.
    """
    global _current
    if _current is not None:
        yield _current
        return
    state = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield state  # Python handles signals in its main thread only
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def watch() -> None:
        while number := int.from_bytes(reading.recv(1)):
            if number in _SIGNALS and state.received is None:
                state.received = number
                name = signal.Signals(number).name
                advice = "stopping after this epoch; press Ctrl-C (again) to stop at once"
                with contextlib.suppress(OSError):  # stderr may be closed
                    print(f"\n{name}: {advice}", file=sys.stderr, flush=True)
            elif number == signal.SIGINT:
                os._exit(128 + number)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    previous = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    previous_descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    _current = state
    try:
        yield state
    finally:
        _current = None
        signal.set_wakeup_fd(previous_descriptor)
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        writing.close()  # which ends the watcher
        watcher.join()
        reading.close()


class Advice(str):
    """A note of an error in training that says what to do."""


@contextlib.contextmanager
def reading(workers: int) -> Iterator[None]:
    """Convert Grain's ``RuntimeError`` for a reader process that ended to ``OSError``."""
    try:
        yield
    except RuntimeError as error:
        if not workers or isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
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
