"""Progress: a bar, or a line for each epoch."""

import sys
from collections.abc import Iterator, Mapping

import jax
from tqdm import tqdm

from jaxrnn.training.fitting import Record


class Progress:
    """A hook of :func:`jaxrnn.fit` that shows a bar on a terminal, otherwise a line per epoch.

    The bar moves during an epoch too; the end of a ``with`` block closes it.

    Args:
      epochs: number of epochs of the whole training.
      done: number of epochs that were trained before.
    """

    def __init__(self, epochs: int, done: int = 0) -> None:
        self._epochs = epochs
        self._bar = tqdm(
            total=epochs,
            initial=done,
            desc=f"epoch {min(done + 1, epochs)}/{epochs}",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            dynamic_ncols=True,
            file=sys.stdout,
            disable=jax.process_index() > 0 or not getattr(sys.stdout, "isatty", bool)(),
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def during(self, epoch: int, fraction: float) -> None:
        """Move the bar to a fraction of an epoch."""
        self._bar.set_description_str(f"epoch {epoch}/{self._epochs}", refresh=False)
        self._bar.update(epoch - 1 + fraction - self._bar.n)

    def __call__(self, record: Record) -> None:
        """Show an epoch."""
        row, task = record.history.rows[-1], record.state.task
        epoch, rate = int(row["epoch"]), record.examples / row["seconds"]
        text = ", ".join([*_describe(row, task.best), f"{rate:,.0f} examples/s"])
        self._bar.set_postfix_str(text, refresh=False)
        self.during(epoch, 1.0)
        self._bar.refresh()
        if self._bar.disable and jax.process_index() == 0:
            print(f"epoch {epoch}/{self._epochs}: {text}", flush=True)


def _describe(row: Mapping[str, float], best: str) -> Iterator[str]:
    """Describe all metrics of the training split and, of the others, the one that counts."""
    for name, value in row.items():
        if name.startswith("train_") or name.endswith(f"_{best}"):
            digits = f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
            yield f"{name.removeprefix('train_').replace('_', ' ')} {digits}"
