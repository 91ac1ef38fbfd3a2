"""Clock: seconds by phase, compilation apart."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax


class Clock:
    """Seconds by phase; the time that JAX spends on compiling is counted as ``compilation``.

    Only the thread that entered the phase counts: other threads compile without delaying it.

    >>> clock = Clock()
    >>> with clock("training"):
    ...     _ = jax.jit(lambda x: x + 1)(1.0)
    >>> sorted(clock.seconds)
    ['compilation', 'training']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"compilation": 0.0}
        self._running = False

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time that the ``with`` block takes to ``seconds[phase]``."""
        if self._running:
            raise RuntimeError("the clock is running already: phases do not nest")
        self._running, self._thread = True, threading.get_ident()
        compiled, start = self.seconds["compilation"], time.perf_counter()
        listening = phase != "compilation"  # all of which is compilation
        if listening:
            jax.monitoring.register_event_duration_secs_listener(self._listen)
        try:
            yield
        finally:
            if listening:
                jax.monitoring.unregister_event_duration_listener(self._listen)
            self._running = False
            compiling = self.seconds["compilation"] - compiled
            elapsed = time.perf_counter() - start - compiling
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        compiling = event.startswith("/jax/core/compile/")  # tracing, lowering, XLA
        if compiling and threading.get_ident() == self._thread:
            self.seconds["compilation"] += duration_secs
