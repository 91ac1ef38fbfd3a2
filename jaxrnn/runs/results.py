"""Results: what a run writes and prints at its start and at its end."""

import contextlib
import logging
import platform
import textwrap
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import keystr

from jaxrnn.data import Datasets, Split
from jaxrnn.data.splits import blank_example
from jaxrnn.files import Json, write_atomically, write_figure, write_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.prepare import Prepared
from jaxrnn.runs.processes import say
from jaxrnn.training.evaluation import generate, predict
from jaxrnn.training.history import History, best_epoch, has_stalled, metric_columns
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.sharding import available_cores
from jaxrnn.training.state import TrainState
from jaxrnn.training.tasks import Classification
from jaxrnn.version import __version__

_log = logging.getLogger("jaxrnn")


@contextlib.contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Log an error in drawing a picture as a warning, since nothing else depends on it."""
    try:
        yield
    except Exception as error:  # matplotlib raises any kind
        _log.warning("%s could not be drawn: %s", path, textwrap.shorten(str(error), 200))


def describe_mesh(mesh: jax.sharding.Mesh) -> str:
    """Describe the number and kind of devices and, for a single CPU device, its cores."""
    devices = _devices(mesh)
    cores = f" ({available_cores()} cores)" if devices == ["cpu"] else ""
    return f"{len(devices)} × {devices[0]}{cores}"


def _devices(mesh: jax.sharding.Mesh) -> list[str]:
    """Return the platform of each device and, if different, its kind."""
    devices = mesh.devices.flat
    return [" ".join(dict.fromkeys((device.platform, device.device_kind))) for device in devices]


def parameters(state: TrainState) -> int:
    """Return the number of parameters."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(state.params))


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
        "stopped_early": has_stalled(history, task, trainer.patience),
        "devices": _devices(trained.mesh),
        "seconds": seconds,
        "versions": {"jaxrnn": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }
    write_json(workdir / "results.json", results)
    if pictures:
        _draw(workdir, state, data, history)
    if count := experiment.runtime.sample:
        say(draw_sample(state, data.train, count, trainer.seed))
    if epoch < len(history):
        say(f"epoch {epoch} of {len(history)} was the best and is kept")
    for split in [*data.evals] or ["train"]:
        if (name := f"{split}_{task.best}") in results:
            say(f"{name.replace('_', ' ')}: {results[name]:.4f}")
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


def draw_sample(state: TrainState, train: object, count: int, seed: int) -> str:
    """Generate ``count`` tokens with a language model, as text or, without class names, numbers."""
    names = getattr(train, "class_names", ())
    first = names.index("\n") if "\n" in names else 0
    tokens = generate(state, np.array([first]), jax.random.key(seed), count=count)
    return "".join(names[token] if names else f"{token} " for token in np.asarray(tokens))
