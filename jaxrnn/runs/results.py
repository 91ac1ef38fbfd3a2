"""What a run prints and writes beside its checkpoints: progress, pictures and results."""

import contextlib
import io
import logging
import platform
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import keystr
from tqdm import tqdm

from jaxrnn.data import Datasets, Split
from jaxrnn.data.splits import blank_example
from jaxrnn.files import Json, write_atomically, write_figure, write_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.prepare import Prepared, devices_of, parameters
from jaxrnn.runs.processes import say
from jaxrnn.training import Classification, History, Record, TrainState, averaged, generate, predict
from jaxrnn.training.fitting import Hook
from jaxrnn.training.history import best_epoch, format_metric, has_stalled, metric_columns, title
from jaxrnn.version import __version__

_log = logging.getLogger("jaxrnn")


class _NotebookBar(tqdm):
    """A progress bar in HTML, which needs no widgets and is saved with the notebook."""

    _handle: Any = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar, or replace the one that is shown."""
        from IPython.display import display  # a notebook has it

        before, _, after = (text := str(self)).split("|", 2)
        bar = f'<progress value="{self.n:g}" max="{self.total}"></progress>'
        shown = {"text/plain": text, "text/html": f"{before} {bar}{escape(after)}"}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


class Progress(contextlib.AbstractContextManager["Progress"]):
    """A hook of :func:`jaxrnn.fit`: a bar on a terminal or in a notebook, else a line per epoch.

    The bar shows ``epochs`` in all, starts at ``done``, and also advances during epochs; it is
    closed at the end of a ``with`` block.
    """

    def __init__(self, epochs: int, done: int = 0) -> None:
        ipython = sys.modules.get("IPython")
        notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
        self._epochs = epochs
        self._bar = (_NotebookBar if notebook else tqdm)(
            total=epochs,
            initial=done,
            desc=f"epoch {min(done + 1, epochs)}/{epochs}",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            dynamic_ncols=not notebook,
            file=io.StringIO() if notebook else sys.stdout,
            disable=jax.process_index() > 0 or not (notebook or sys.stdout.isatty()),
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
            f"{title(name.removeprefix('train_'))} {format_metric(value)}"
            for name, value in shown.items()
        ]
        text = ", ".join([*parts, f"{record.examples / row['seconds']:,.0f} examples/s"])
        self._bar.set_postfix_str(text, refresh=False)
        self.during(epoch, 1.0)
        self._bar.refresh()
        if self._bar.disable:
            say(f"epoch {epoch}/{self._epochs}: {text}")


@contextlib.contextmanager
def writing_events(folder: Path, splits: Iterable[str], done: int = 0) -> Iterator[Hook]:
    """Open an event file, and yield a hook that writes every curve to it, as METRIC/SPLIT.

    ``tensorboard --logdir FOLDER`` shows the files, without the events that earlier runs wrote for
    epochs after ``done``.
    """
    from tensorboardX import SummaryWriter  # an extra

    def write(record: Record) -> None:
        row = record.history.rows[-1]
        for name in row:
            if named := [split for split in ("train", *splits) if name.startswith(f"{split}_")]:
                metric = name.removeprefix(f"{(split := max(named, key=len))}_")
                writer.add_scalar(f"{metric}/{split}", row[name], row["epoch"])
        writer.flush()

    purge, suffix = done + 1 if done else None, f".{done:06}"  # names have whole seconds only
    with SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix) as writer:
        yield write


@contextlib.contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Log an error in drawing a picture as a warning, since nothing else depends on it."""
    try:
        yield
    except Exception as error:  # matplotlib raises any kind
        _log.warning("%s could not be drawn: %s", path, textwrap.shorten(str(error), 200))


def write_about(workdir: Path, prepared: Prepared, *, pictures: bool) -> None:
    """Write the table of parameters and, for labelled images, the first training examples."""
    train, model = prepared.data.train, prepared.state.model
    example = blank_example(np.empty((1, *prepared.description["input_shape"])))
    if isinstance(model, nn.Module):
        plain = {"width": 120, "force_terminal": False, "no_color": True}
        table = model.tabulate(jax.random.key(0), example, console_kwargs=plain)
    else:  # nnx.tabulate changes classes, so nothing else could call the module meanwhile
        leaves = jax.tree.leaves_with_path(prepared.state.params)
        rows = [f"{keystr(path, simple=True, separator='/')}  {x.shape}" for path, x in leaves]
        table = "\n".join([*rows, f"total: {parameters(prepared.state):,} parameters"])
    lines = (line.rstrip() for line in table.strip("\n").splitlines())
    write_atomically(workdir / "parameters.txt", "\n".join(lines) + "\n")
    images = example.shape[2:] > (1,)  # wider than one pixel
    if pictures and isinstance(train, Split) and train.class_names and images:
        with drawing(path := workdir / "samples.png"):
            from jaxrnn.plotting.samples import plot_samples  # slow to import

            write_figure(path, plot_samples(train))


def finish(
    workdir: Path,
    experiment: Experiment,
    trained: Prepared,
    checkpoints: Checkpoints,
    seconds: Mapping[str, float],
    *,
    pictures: bool,
) -> Json:
    """Write and return the results of a finished run; print main metrics and how to continue."""
    task, trainer, data = experiment.task, experiment.trainer, trained.data
    state, history = trained.state, trained.history
    epoch = len(history)  # the one that is reported
    if trainer.patience is not None and (best := checkpoints.restore(lambda _: state, best=True)):
        state, epoch = best[0], len(best[1])
    state = jax.device_get(averaged(state).replace(opt_state=()))
    row = history.rows[epoch - 1]
    metrics = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
    bests = {
        f"best_{name}": history.best(name, maximize=task.maximize)[name]
        for name in metric_columns(metrics, task.best)
        if history.measured(name)
    }
    results = {
        **{"epochs": len(history), "epoch": epoch, **metrics, **bests},
        "best_epoch": best_epoch(history, task),
        "seed": trainer.seed,
        "parameters": parameters(state),
        "stopped_early": len(history) < trainer.epochs
        or has_stalled(history, task, trainer.patience),
        "devices": devices_of(trained.mesh),
        "seconds": {**seconds, "training": float(history["seconds"].sum())},  # of all sessions
        "versions": {"jaxrnn": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }
    write_json(workdir / "results.json", results)
    if pictures:
        _draw(workdir, state, data, history)
    if count := experiment.runtime.sample:
        names = getattr(data.train, "class_names", ())
        say(draw_sample(state, names, count, trainer.seed))
    if epoch < len(history):
        say(f"epoch {epoch} of {len(history)} was the best and is kept")
    for split in [*data.evals] or ["train"]:
        if (name := f"{split}_{task.best}") in results:
            say(f"{title(name)}: {results[name]:.4f}")
    say(f"curves: {workdir / 'curves.png'}\nto evaluate: {experiment.advice('evaluate', workdir)}")
    if experiment.can_grow and not results["stopped_early"]:
        say(f"to continue: {experiment.advice('resume', workdir, 2 * trainer.epochs)}")
    return results


def _draw(workdir: Path, state: TrainState, data: Datasets, history: History) -> None:
    """Draw the curves and, for classifiers, the confusion matrix of the test or last split."""
    with drawing(path := workdir / "curves.png"):
        from jaxrnn.plotting import plot_history  # slow to import

        write_figure(path, plot_history(history, data.baselines))
    splits = {
        name: split
        for name, split in data.evals.items()
        if isinstance(split, Split) and getattr(split.labels, "ndim", 0) == 1
    }
    if splits and isinstance(state.task, Classification):
        split = splits.get("test", [*splits.values()][-1])
        predicted = predict(state, split)
        with drawing(path := workdir / "confusion.png"):
            from jaxrnn.plotting import plot_confusion

            write_figure(path, plot_confusion(split, predicted))


def draw_sample(
    state: TrainState, names: Sequence[str], count: int, seed: int, prompt: np.ndarray | None = None
) -> str:
    """Generate ``count`` tokens with a language model, as text or, without names, numbers."""
    if prompt is None:
        prompt = np.array([names.index("\n") if "\n" in names else 0])
    tokens = generate(state, prompt, jax.random.key(seed), count=count)
    return "".join(names[token] if names else f"{token} " for token in np.asarray(tokens))
