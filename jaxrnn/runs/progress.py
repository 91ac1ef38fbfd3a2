"""Progress: a bar, or a line for each epoch."""

import sys
from collections.abc import Iterator
from typing import Any

import jax
from tqdm import tqdm


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
        row = record.history.rows[-1]
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
