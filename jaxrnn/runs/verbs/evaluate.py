"""The evaluate verb: the metrics of a stored run."""

import logging
from dataclasses import replace
from pathlib import Path

import jax

from jaxrnn.files import Json
from jaxrnn.runs.config import Experiment
from jaxrnn.runs.prepare import build_data, check_same_data, describe_data
from jaxrnn.runs.processes import is_first
from jaxrnn.runs.results import draw_sample
from jaxrnn.runs.trained import load_run
from jaxrnn.training import evaluate
from jaxrnn.training.sharding import batch_mesh, replicate, suitable_devices

_log = logging.getLogger("jaxrnn")


def evaluate_run(experiment: Experiment, workdir: Path) -> Json:
    """Measure a stored run on its evaluated splits; return the epoch and, by name, the metrics."""
    trainer, runtime = experiment.trainer, experiment.runtime
    experiment.check()
    # With patience, the best epoch is the one that the run kept.
    stored = load_run(workdir, type(experiment), best=trainer.patience is not None)
    experiment.check_same(stored.experiment.identity, any_epochs=True)
    data = build_data(experiment.data, replace(runtime, stream=True))  # only described
    changed = check_same_data(stored.description, describe_data(data))
    if changed and not runtime.other_data and is_first():
        _log.warning("the data has changed since training: %s", changed)
    devices = suitable_devices(stored.state.params, runtime.devices)
    state = replicate(stored.network, mesh := batch_mesh(trainer.batch_size, devices))
    results: Json = {"epoch": len(stored.history)}
    for name, split in data.evals.items():
        measured = evaluate(state, replicate(split, mesh), mesh=mesh, outputs=data.outputs)
        metrics = experiment.task.summarize(jax.device_get(measured).means())
        results |= {f"{name}_{metric}": float(value) for metric, value in metrics.items()}
    if runtime.sample:
        names = getattr(data.train, "class_names", ())
        results["sample"] = draw_sample(stored.network, names, runtime.sample, trainer.seed)
    return results
