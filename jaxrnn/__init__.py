"""jaxrnn: recurrent networks trained as pure functions, on JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrnn.augmentation import random_warp
from jaxrnn.checkpoints import Checkpoints, Run, load_run
from jaxrnn.data import Source, Split, batches, load
from jaxrnn.evaluation import evaluate, evaluate_each, evaluate_stream, predict
from jaxrnn.fitting import NonFiniteLossError, fit
from jaxrnn.history import History, mean_history
from jaxrnn.models import RNNClassifier
from jaxrnn.optimizers import averaged, make_optimizer
from jaxrnn.progress import Clock
from jaxrnn.streaming import Stream, stream
from jaxrnn.training import (
    Metrics,
    TrainState,
    create_train_state,
    measure,
    train_epoch,
    train_step,
)

if TYPE_CHECKING:
    from jaxrnn.plotting import plot_history, plot_runs, plot_samples

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Matplotlib is nearly a third of what importing costs, and many a program draws nothing.
    if name in ("plot_history", "plot_runs", "plot_samples"):
        return getattr(importlib.import_module("jaxrnn.plotting"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Checkpoints",
    "Clock",
    "History",
    "Metrics",
    "NonFiniteLossError",
    "RNNClassifier",
    "Run",
    "Source",
    "Split",
    "Stream",
    "TrainState",
    "averaged",
    "batches",
    "create_train_state",
    "evaluate",
    "evaluate_each",
    "evaluate_stream",
    "fit",
    "load",
    "load_run",
    "make_optimizer",
    "mean_history",
    "measure",
    "plot_history",
    "plot_runs",
    "plot_samples",
    "predict",
    "random_warp",
    "stream",
    "train_epoch",
    "train_step",
]
