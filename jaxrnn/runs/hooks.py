"""Hooks of a run: progress on the terminal, and event files for TensorBoard."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import jax
from tqdm import tqdm

from jaxrnn.training.fitting import Hook, Record
from jaxrnn.training.history import metric_columns


class Progress(AbstractContextManager["Progress"]):
    """A hook of :func:`jaxrnn.fit`: a progress bar on a terminal, otherwise a line per epoch.

    The bar shows ``epochs`` in all, starts at ``done``, and also advances during epochs; it is
    closed at the end of a ``with`` block.
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
            disable=jax.process_index() > 0 or not sys.stdout.isatty(),
        )

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def during(self, epoch: int, fraction: float) -> None:
        """Move the bar to a fraction of an epoch."""
        self._bar.set_description_str(f"epoch {epoch}/{self._epochs}", refresh=False)
        self._bar.update(epoch - 1 + fraction - self._bar.n)

    def __call__(self, record: Record) -> None:
        """Show all metrics of the training split, and the main metric of the others."""
        row = record.history.rows[-1]
        main, epoch = metric_columns([*row], record.state.task.best), int(row["epoch"])
        shown = {name: row[name] for name in row if name.startswith("train_") or name in main}
        parts = [
            f"{name.removeprefix('train_').replace('_', ' ')} "
            + (f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.4g}")
            for name, value in shown.items()
        ]
        text = ", ".join([*parts, f"{record.examples / row['seconds']:,.0f} examples/s"])
        self._bar.set_postfix_str(text, refresh=False)
        self.during(epoch, 1.0)
        self._bar.refresh()
        if self._bar.disable and jax.process_index() == 0:
            print(f"epoch {epoch}/{self._epochs}: {text}", flush=True)


@contextmanager
def writing_events(folder: Path, splits: Iterable[str], done: int = 0) -> Iterator[Hook]:
    """Open an event file, and yield a hook that writes every curve to it, as METRIC/SPLIT.

    ``tensorboard --logdir FOLDER`` shows the files; it discards earlier events of epochs after the
    ``done`` ones.
    """
    from tensorboardX import SummaryWriter  # an extra

    def write(record: Record) -> None:
        row = record.history.rows[-1]
        for split, name in itertools.product(("train", *splits), row):
            if (metric := name.removeprefix(f"{split}_")) != name:
                writer.add_scalar(f"{metric}/{split}", row[name], row["epoch"])
        writer.flush()

    purge, suffix = done + 1 if done else None, f".{done:06}"  # names have whole seconds only
    with SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix) as writer:
        yield write
