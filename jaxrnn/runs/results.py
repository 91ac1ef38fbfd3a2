"""Results: what results.json contains, and the lines that a run ends with."""

import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jaxlib
import numpy as np
import optax

from jaxrnn.data.splits import Split, zeros_like_one
from jaxrnn.files import write_atomically, write_figure, write_json
from jaxrnn.training.evaluation import predict
from jaxrnn.training.generation import generate
from jaxrnn.training.history import History, best_epoch
from jaxrnn.training.sharding import available_cores
from jaxrnn.training.state import TrainState
from jaxrnn.training.tasks import Classification, LanguageModeling, Task
from jaxrnn.version import __version__


def results_of(
    histories: Sequence[History], task: Task, seeds: Sequence[int], *, epoch: int, **about: Any
) -> dict[str, Any]:
    """Everything that ``results.json`` contains.

    Args:
      histories: the curves of each network.
      task: which metric counts.
      seeds: the seed of each network.
      epoch: the one whose metrics are reported.
      about: parameters, seconds, devices and the like.
    """
    members = [
        {"seed": seed, **_metrics_of(history, task, epoch)}
        for seed, history in zip(seeds, histories, strict=True)
    ]
    return {
        "epochs": len(histories[0]),
        "epoch": epoch,
        **(members[0] if len(members) == 1 else _summarize(members, task)),
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


def _metrics_of(history: History, task: Task, epoch: int) -> dict[str, float]:
    """The metrics after an epoch, and the best value of the one that counts."""
    row = history.rows[epoch - 1]
    metrics = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
    best = {
        f"best_{name}": history.best(name, maximize=task.maximize)[name]
        for name in metrics
        if name.endswith(f"_{task.best}") and history.measured(name)
    }
    best_one = best_epoch(history, task.best, task.maximize)
    return {**metrics, **best, "best_epoch": best_one}


def _summarize(members: list[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Mean, deviation and the 95 % interval of the mean (Student's t) over several networks."""
    from scipy.special import stdtrit  # here, as it takes a while to import

    summary: dict[str, Any] = {"seed": members[0]["seed"], "members": members}
    half_width = stdtrit(len(members) - 1, 0.975) / math.sqrt(len(members))
    for name in members[0]:
        values = np.array([member[name] for member in members])
        if name not in ("seed", "best_epoch"):
            summary[name] = float(values.mean())
        if name.endswith(f"_{task.best}") and not name.startswith("best_"):
            deviation = float(values.std(ddof=1))
            half = half_width * deviation
            summary[f"{name}_deviation"] = deviation
            summary[f"{name}_interval"] = [summary[name] - half, summary[name] + half]
    return summary


def describe_results(results: Mapping[str, Any], evals: Iterable[str], task: Task) -> Iterator[str]:
    """The lines to print at the end of a run: the metric that counts, of every evaluated split."""
    if results["epoch"] < results["epochs"]:
        yield f"epoch {results['epoch']} of {results['epochs']} was the best and is kept"
    for name in [f"{split}_{task.best}" for split in (*evals, "train")]:
        if name not in results or (name.startswith("train_") and evals):
            continue
        words = name.replace("_", " ")
        for member in results.get("members", ()):
            yield f"seed {member['seed']}: {words} {member[name]:.4f}"
        line = f"{words}: {results[name]:.4f}"
        if "members" in results:
            low, high = results[f"{name}_interval"]
            line += (
                f", deviation {results[f'{name}_deviation']:.4f}, 95 % interval of the mean "
                f"{low:.4f} to {high:.4f}"
            )
        yield line


def draw_sample(state: TrainState, train: Any, count: int, seed: int) -> str:
    """What a language model writes.

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
    """The platform of each device and, if that says more, its kind."""
    devices = mesh.devices.flat
    return [" ".join(dict.fromkeys((device.platform, device.device_kind))) for device in devices]


def describe_mesh(mesh: jax.sharding.Mesh) -> str:
    """Describe the number and kind of devices and, for a single CPU device, its cores."""
    devices = describe_devices(mesh)
    cores = f" ({available_cores()} cores)" if devices == ["cpu"] else ""
    return f"{len(devices)} × {devices[0]}{cores}"


def write_about(workdir: Path, model: nn.Module, train: Any, pictures: bool) -> None:
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
    workdir: Path, histories: Sequence[History], seeds: Sequence[int], results: dict[str, Any]
) -> None:
    """Write the results and, of several networks, the history of each."""
    if len(histories) > 1:
        for seed, history in zip(seeds, histories, strict=True):
            history.to_csv(workdir / f"history-{seed}.csv")
    write_json(workdir / "results.json", results)


def write_curves(
    workdir: Path, histories: Sequence[History], baselines: Mapping[str, Mapping[str, float]]
) -> None:
    """Draw the curves of a finished run."""
    from jaxrnn.plotting.curves import plot_history

    write_figure(workdir / "curves.png", plot_history(histories, baselines))


def write_confusion(workdir: Path, state: TrainState, evals: Mapping[str, Any]) -> None:
    """Draw what a classifier confuses in the test split or, without one, the last that there is.

    Args:
      workdir: directory of the run.
      state: of one network, on the host.
      evals: the splits that were evaluated; those with a label for each time step are left out.
    """
    splits = {
        name: split
        for name, split in evals.items()
        if isinstance(split, Split) and np.asarray(split.labels).ndim == 1
    }
    if isinstance(state.task, Classification) and splits:
        from jaxrnn.plotting.confusion import plot_confusion

        split = splits.get("test", [*splits.values()][-1])
        logits = predict(state, split)
        write_figure(workdir / "confusion.png", plot_confusion(split, logits))
