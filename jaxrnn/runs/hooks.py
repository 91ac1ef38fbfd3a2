"""Hooks of a run: progress on the terminal, and event files for TensorBoard."""

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax
from tqdm import tqdm

from jaxrnn.training.fitting import Record
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
        """Show the metrics of an epoch."""
        row, task = record.history.rows[-1], record.state.task
        epoch, rate = int(row["epoch"]), record.examples / row["seconds"]
        text = ", ".join([*_describe(row, task.best), f"{rate:,.0f} examples/s"])
        self._bar.set_postfix_str(text, refresh=False)
        self.during(epoch, 1.0)
        self._bar.refresh()
        if self._bar.disable and jax.process_index() == 0:
            print(f"epoch {epoch}/{self._epochs}: {text}", flush=True)


def _describe(row: Mapping[str, float], best: str) -> Iterator[str]:
    """Describe all metrics of the training split, and the main metric of the others."""
    main = metric_columns([*row], best)
    for name, value in row.items():
        if name.startswith("train_") or name in main:
            digits = f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
            yield f"{name.removeprefix('train_').replace('_', ' ')} {digits}"


def check_tensorboard() -> None:
    """Raise ``ValueError`` if tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX; install jaxrnn's extra tensorboard")


class Events(AbstractContextManager["Events"]):
    """A hook of :func:`jaxrnn.fit` that writes every curve to an event file, as METRIC/SPLIT.

    ``tensorboard --logdir FOLDER`` shows the files; it discards earlier events of epochs after the
    ``done`` ones.
    """

    def __init__(self, folder: Path, splits: Sequence[str], done: int = 0) -> None:
        from tensorboardX import SummaryWriter  # an extra

        self._splits = ("train", *splits)
        purge, suffix = done + 1 if done else None, f".{done:06}"  # names have whole seconds only
        self._writer = SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix)

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def __call__(self, record: Record) -> None:
        """Write the metrics of an epoch."""
        row = record.history.rows[-1]
        for split in self._splits:
            for column in row:
                if column.startswith(f"{split}_"):
                    tag = f"{column.removeprefix(f'{split}_')}/{split}"
                    self._writer.add_scalar(tag, row[column], row["epoch"])
        self._writer.flush()
