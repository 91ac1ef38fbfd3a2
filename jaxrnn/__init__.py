"""jaxrnn: recurrent networks trained as pure functions, on JAX and Flax.

The rest of the API is in :mod:`jaxrnn.nn`, :mod:`jaxrnn.data`, :mod:`jaxrnn.training`,
:mod:`jaxrnn.plotting`, :mod:`jaxrnn.export` and :mod:`jaxrnn.runs`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrnn import data, nn, training
from jaxrnn.data import Datasets, ImageSequences, Source, Split, WarpConfig, batches, load, stream
from jaxrnn.nn import RNN, RNNConfig, RNNModel
from jaxrnn.runs import Checkpoints, Experiment, load_run, main, run, sweep
from jaxrnn.training import (
    Adam,
    Classification,
    History,
    LanguageModeling,
    Metrics,
    Muon,
    Regression,
    Task,
    TrainerConfig,
    TrainState,
    create_train_state,
    evaluate,
    fit,
    generate,
    predict,
    train_epoch,
    train_step,
)
from jaxrnn.version import __version__

if TYPE_CHECKING:
    from jaxrnn import export, plotting


def __getattr__(name: str) -> Any:
    # Imported on demand: matplotlib and safetensors, which many programs don't need.
    if name in ("export", "plotting"):
        return importlib.import_module(f"jaxrnn.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "RNN",
    "Adam",
    "Checkpoints",
    "Classification",
    "Datasets",
    "Experiment",
    "History",
    "ImageSequences",
    "LanguageModeling",
    "Metrics",
    "Muon",
    "RNNConfig",
    "RNNModel",
    "Regression",
    "Source",
    "Split",
    "Task",
    "TrainState",
    "TrainerConfig",
    "WarpConfig",
    "__version__",
    "batches",
    "create_train_state",
    "data",
    "evaluate",
    "export",
    "fit",
    "generate",
    "load",
    "load_run",
    "main",
    "nn",
    "plotting",
    "predict",
    "run",
    "stream",
    "sweep",
    "train_epoch",
    "train_step",
    "training",
]
