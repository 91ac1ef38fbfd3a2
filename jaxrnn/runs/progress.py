"""Progress: seconds by phase, and a bar or a line for each epoch."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from tqdm import tqdm


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


class Progress:
    """A hook of :func:`jaxrnn.fit` that shows a bar on a terminal, otherwise a line per epoch.

    The bar moves while an epoch is trained too, and estimates the time that remains. As a context
    manager, it shows the bar before anything is trained, and closes it.

    Args:
      epochs: epochs of the whole training.
      done: epochs that were trained before.
    """

    def __init__(self, epochs: int, done: int = 0) -> None:
        self._epochs, self._done = epochs, done
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if jax.process_index() == 0 and getattr(sys.stdout, "isatty", bool)():
            self._bar = tqdm(
                total=self._epochs,
                initial=self._done,
                desc=f"epoch {min(self._done + 1, self._epochs)}/{self._epochs}",
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
                dynamic_ncols=True,
                file=sys.stdout,
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def during(self, epoch: int, fraction: float) -> None:
        """Move the bar to a fraction of an epoch."""
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {epoch}/{self._epochs}", refresh=False)
            self._bar.update(epoch - 1 + fraction - self._bar.n)

    def __call__(self, record: Any) -> None:
        """Show an epoch."""
        if jax.process_index() > 0:
            return
        row = record.mean.rows[-1]
        text = ", ".join(_describe(row, record.state.task.best))
        text += f", {record.examples / row['seconds']:,.0f} examples/s"
        if self._bar is None:
            print(f"epoch {row['epoch']}/{self._epochs}: {text}", flush=True)
            return
        self._bar.set_postfix_str(text, refresh=False)
        self.during(int(row["epoch"]), 1.0)
        self._bar.refresh()


def _describe(row: dict[str, float], best: str) -> Iterator[str]:
    """All metrics of the training split, and the one that counts of the others."""
    for name, value in row.items():
        if name.startswith("train_") or name.endswith(f"_{best}"):
            digits = f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
            yield f"{name.removeprefix('train_').replace('_', ' ')} {digits}"
