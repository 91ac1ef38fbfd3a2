"""Interruption: SIGINT and SIGTERM ask a run to stop after the current epoch."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """The first signal that was received, if any."""

    received: int | None = None

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal, as in shells; 0 if none was received."""
        return 128 + self.received if self.received else 0


_current: Interruption | None = None


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Record and report a first SIGINT or SIGTERM; end the process on a second SIGINT.

    Python runs signal handlers between its own instructions, but a call into XLA takes long.
    Therefore a thread waits for the byte that the interpreter's C handler writes at once.

    Within another ``with`` block of this function, as in a run of a sweep, the state is the same.
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
