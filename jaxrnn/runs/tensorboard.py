"""Events: curves for TensorBoard, written without TensorFlow."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from jaxrnn.training.fitting import Record


def check_tensorboard() -> None:
    """Raise ``ValueError`` if what writes event files is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX; install jaxrnn's extra tensorboard")


class Events:
    """A hook of :func:`jaxrnn.fit` that writes every curve to an event file, as METRIC/SPLIT.

    ``tensorboard --logdir FOLDER`` shows the files.

    Args:
      folder: for the event files.
      splits: names of the splits that are evaluated.
      done: epochs that were trained before; what TensorBoard shows of later ones is replaced.
    """

    def __init__(self, folder: Path, splits: Sequence[str], done: int = 0) -> None:
        from tensorboardX import SummaryWriter  # here, as it is an extra

        self._splits = ("train", *splits)
        purge, suffix = done + 1 if done else None, f".{done:06}"  # names have whole seconds only
        self._writer = SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix)

    def __enter__(self) -> "Events":
        return self

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
