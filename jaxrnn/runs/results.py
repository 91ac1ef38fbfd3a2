"""Results: what results.json contains, and the lines that a run ends with."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jaxlib
import numpy as np
import optax

from jaxrnn.data import Datasets, Split
from jaxrnn.data.splits import zeros_like_one
from jaxrnn.files import write_atomically, write_figure, write_json
from jaxrnn.training.evaluation import generate, predict
from jaxrnn.training.history import History, best_epoch
from jaxrnn.training.sharding import available_cores
from jaxrnn.training.state import TrainState
from jaxrnn.training.tasks import Classification, LanguageModeling, Task
from jaxrnn.version import __version__


def results_of(history: History, task: Task, epoch: int, **about: Any) -> dict[str, Any]:
    """Return everything that ``results.json`` contains.

    Args:
      history: the curves.
      task: which metric counts.
      epoch: the one whose metrics are reported.
      about: seed, parameters, seconds, devices and the like.
    """
    row = history.rows[epoch - 1]
    metrics = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
    best = {
        f"best_{name}": history.best(name, maximize=task.maximize)[name]
        for name in metrics
        if name.endswith(f"_{task.best}") and history.measured(name)
    }
    return {
        "epochs": len(history),
        "epoch": epoch,
        **metrics,
        **best,
        "best_epoch": best_epoch(history, task),
        **about,
        "versions": {
            "jaxrnn": __version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.version.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
        },
    }


def describe_results(results: Mapping[str, Any], evals: Iterable[str], task: Task) -> Iterator[str]:
    """Yield the lines that a run ends with: the metric that counts, of every evaluated split."""
    if results["epoch"] < results["epochs"]:
        yield f"epoch {results['epoch']} of {results['epochs']} was the best and is kept"
    for split in [*evals] or ["train"]:
        if (name := f"{split}_{task.best}") in results:
            yield f"{name.replace('_', ' ')}: {results[name]:.4f}"


def draw_sample(state: TrainState, train: Any, count: int, seed: int) -> str:
    """Generate text with a language model.

    Args:
      state: of one network.
      train: the training data, whose class names are the text of each token; without them, tokens
        are written as numbers.
      count: number of tokens.
      seed: determines what is drawn.

    Raises:
      ValueError: it is no language model.
    """
    if not isinstance(state.task, LanguageModeling):
        raise ValueError("--sample needs a language model")
    names = getattr(train, "class_names", ())
    first = names.index("\n") if "\n" in names else 0
    tokens = generate(state, np.array([first]), jax.random.key(seed), count=count)
    return "".join(names[token] if names else f"{token} " for token in np.asarray(tokens))


def describe_devices(mesh: jax.sharding.Mesh) -> list[str]:
    """Return the platform of each device and, if that says more, its kind."""
    devices = mesh.devices.flat
    return [" ".join(dict.fromkeys((device.platform, device.device_kind))) for device in devices]


def describe_mesh(mesh: jax.sharding.Mesh) -> str:
    """Describe the number and kind of devices and, for a single CPU device, its cores."""
    devices = describe_devices(mesh)
    cores = f" ({available_cores()} cores)" if devices == ["cpu"] else ""
    return f"{len(devices)} × {devices[0]}{cores}"


def write_about(workdir: Path, model: nn.Module, train: Any, *, pictures: bool) -> None:
    """Write the table of parameters and, of labelled images, the first training examples."""
    inputs = train.inputs if isinstance(train, Split) else train.read([0])["inputs"]
    example = zeros_like_one(inputs)
    plain = {"width": 120, "force_terminal": False, "no_color": True}
    table = model.tabulate(jax.random.key(0), example, console_kwargs=plain)
    lines = (line.rstrip() for line in table.strip("\n").splitlines())
    write_atomically(workdir / "parameters.txt", "\n".join(lines) + "\n")
    images = np.shape(inputs)[2:] > (1,)  # wider than one pixel
    if pictures and isinstance(train, Split) and train.class_names and images:
        from jaxrnn.plotting.samples import plot_samples  # here, as it takes a while to import

        write_figure(workdir / "samples.png", plot_samples(train))


def write_results(
    workdir: Path,
    state: TrainState,
    data: Datasets,
    history: History,
    results: dict[str, Any],
    *,
    pictures: bool,
) -> None:
    """Write the results and, if asked for, the curves and what a classifier confuses.

    Args:
      workdir: directory of the run.
      state: to predict with, on the host.
      data: what was trained and evaluated on.
      history: the curves.
      results: from :func:`results_of`.
      pictures: whether to draw.
    """
    if pictures:
        from jaxrnn.plotting import plot_confusion, plot_history  # here, as matplotlib is slow

        write_figure(workdir / "curves.png", plot_history(history, data.baselines))
        split = _to_confuse(data.evals) if isinstance(state.task, Classification) else None
        if split is not None:
            figure = plot_confusion(split, predict(state, split))
            write_figure(workdir / "confusion.png", figure)
    write_json(workdir / "results.json", results)


def _to_confuse(evals: Mapping[str, Any]) -> Split | None:
    """Choose the test split or, without one, the last of those with one label an example."""
    splits = {
        name: split
        for name, split in evals.items()
        if isinstance(split, Split) and getattr(split.labels, "ndim", 0) == 1
    }
    return splits.get("test", [*splits.values()][-1]) if splits else None
