"""Interruption: SIGINT and SIGTERM ask a run to end after the epoch in hand."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether a signal has come, and which.

    Attributes:
      received: the first signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells have it; 0 where none came."""
        return 128 + self.received if self.received else 0


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Inside, a first SIGINT or SIGTERM is noted and said, and a second SIGINT ends the process.

    Python runs signal handlers between two of its own instructions, and an epoch is a single call
    into XLA. So a thread waits for the byte that the interpreter's C handler writes at once.
    """
    state = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield state  # Python takes signals in its main thread only
        return

    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def watch() -> None:
        while number := int.from_bytes(reading.recv(1)):
            if number in _SIGNALS and state.received is None:
                state.received = number
                with contextlib.suppress(OSError):  # whoever read it may be gone
                    print(
                        f"\n{signal.Signals(number).name}: ending after this epoch; "
                        "Ctrl-C (again) ends at once",
                        file=sys.stderr,
                        flush=True,
                    )
            elif number == signal.SIGINT:
                os._exit(128 + number)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    previous = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    previous_descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        yield state
    finally:
        signal.set_wakeup_fd(previous_descriptor)
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        writing.close()  # the watcher reads the end, and is done
        watcher.join()
        reading.close()
