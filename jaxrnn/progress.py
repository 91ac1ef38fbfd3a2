"""What a run says of itself on the way: seconds by phase, a line or a bar for each epoch."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from tqdm import tqdm


class Clock:
    """Seconds by phase, with what JAX spends on compiling counted apart as ``compilation``.

    Only the thread that entered the phase counts: what others compile meanwhile delays nobody.

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
        listening = phase != "compilation"  # which is all that happens there
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


@contextmanager
def reporter(
    epochs: int, done: int, *, enabled: bool
) -> Iterator[Callable[[dict[str, float], float], None]]:
    """How an epoch is shown: a bar on a terminal, else a line, else not at all."""
    if not enabled:
        yield lambda row, rate: None
    elif not sys.stdout.isatty():
        yield lambda row, rate: print(
            f"epoch {row['epoch']}/{epochs}: {', '.join(_describe(row, rate))}", flush=True
        )
    else:
        with tqdm(total=epochs, initial=done, unit="epoch", file=sys.stdout) as bar:

            def report(row: dict[str, float], rate: float) -> None:
                bar.set_postfix_str(", ".join(_describe(row, rate)), refresh=False)
                bar.update()

            yield report


def _describe(row: dict[str, float], rate: float) -> Iterator[str]:
    yield f"loss {row['train_loss']:.4f}"
    yield f"accuracy {row['train_accuracy']:.4f}"
    for name in ("validation", "test"):
        if f"{name}_accuracy" in row:
            yield f"{name} accuracy {row[f'{name}_accuracy']:.4f}"
    yield f"{rate:,.0f} examples/s"
