"""Stored runs: read them back, and evaluate them."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.data import Split, default_places
from jaxrnn.files import read_json
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.results import draw_sample
from jaxrnn.runs.trained import Run
from jaxrnn.training.evaluation import evaluate
from jaxrnn.training.optimizers import averaged
from jaxrnn.training.sharding import batch_mesh, replicate, suitable_devices
from jaxrnn.training.state import TrainState, create_train_state


def load_run(workdir: Any, experiment: type[Experiment] = Experiment, *, best: bool = False) -> Run:
    """Read back a run from its work directory.

    Args:
      workdir: the directory of the run.
      experiment: the class of the experiment. The default serves every page whose model, task and
        optimizer are groups of jaxrnn.
      best: read the best epoch instead of the last, see :class:`jaxrnn.Checkpoints`. ``history``
        then ends with that epoch. The verbs of a page do so by default where ``--patience`` is set.

    Returns:
      The :class:`Run`.

    Raises:
      FileNotFoundError: the directory has no checkpoint.
      ValueError: every checkpoint is damaged.
    """
    parts: dict[str, Any] = {}

    def template(description: Mapping[str, Any]) -> TrainState:
        parts["description"] = description
        known = {field.name for field in fields(experiment)}
        config = {name: v for name, v in description["config"].items() if name in known}
        stored = parts["experiment"] = experiment.from_json(config)
        parts["model"] = stored.model.build(description["outputs"])
        return create_train_state(
            None,
            parts["model"],
            stored.optimizer.build(description["steps"]),
            jax.ShapeDtypeStruct((1, *description["input_shape"]), np.float32),
            stored.task,
        )

    restored = Checkpoints(Path(workdir).expanduser() / "checkpoints").restore(template, best=best)
    if restored is None:
        raise FileNotFoundError(f"{workdir} has no checkpoint of a run")
    return Run(parts["experiment"], parts["model"], *restored, **_about(**parts))


def _about(experiment: Experiment, description: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    """What a :class:`Run` knows of its data; a run of an earlier version has not stored all."""
    shape, outputs = tuple(description["input_shape"]), description["outputs"]
    data = description["config"]["data"]
    names, categorical = description.get("class_names"), experiment.task.categorical
    return {
        "input_shape": shape,
        "outputs": outputs,
        "class_names": tuple(names or map(str, range(outputs)) if categorical else ()),
        "channels": description.get("channels", 1),
        "pixels": description.get("pixels", "permute" in data),  # an option of ImageSequences
    }


def read_experiment(workdir: Path, kind: type[Experiment]) -> Experiment:
    """The experiment that a work directory holds, with its runtime options.

    Raises:
      FileNotFoundError: it holds none.
      ValueError: it holds another experiment, or its ``config.json`` is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds no run")
    try:
        return kind.from_json(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def evaluate_run(experiment: Experiment, workdir: Path) -> dict[str, Any]:
    """Measure a stored run on the splits that it was evaluated on.

    Returns:
      For each metric of each split, its value; of several networks, a list of values. They are
      those of ``results.json``.

    Raises:
      ValueError, OSError: as :func:`load_run`; or the checkpoint is of another configuration.
    """
    trainer, runtime = experiment.trainer, experiment.runtime
    # With patience, the best epoch is the one that the run kept.
    stored = load_run(workdir, type(experiment), best=trainer.patience is not None)
    experiment.check_same(stored.experiment.identity, any_epochs=True)
    params = stored.state.params
    mesh = batch_mesh(trainer.batch_size, suitable_devices(params, runtime.devices))
    state = replicate(averaged(stored.state), mesh)
    results: dict[str, Any] = {"epoch": len(stored.history)}
    with default_places(runtime.data_dir, runtime.archives):
        data = experiment.data.build()
    for name, split in data.evals.items():
        split = replicate(split, mesh) if isinstance(split, Split) else split
        means = jax.device_get(evaluate(state, split, mesh=mesh, outputs=data.outputs)).means()
        for metric, value in experiment.task.summarize(means).items():
            results[f"{name}_{metric}"] = np.asarray(value).tolist()
    if runtime.sample:
        results["sample"] = draw_sample(state, data.train, runtime.sample, trainer.seed)
    return results
