"""jaxrnn: recurrent networks trained as pure functions, on JAX and Flax."""

from jaxrnn.data import Split, batches, load
from jaxrnn.evaluation import evaluate, predict
from jaxrnn.fitting import Clock, fit
from jaxrnn.history import History
from jaxrnn.models import RNNClassifier
from jaxrnn.plotting import plot_history, plot_samples
from jaxrnn.training import (
    Metrics,
    TrainState,
    create_train_state,
    measure,
    train_epoch,
    train_step,
)

__version__ = "0.1.0"

__all__ = [
    "Clock",
    "History",
    "Metrics",
    "RNNClassifier",
    "Split",
    "TrainState",
    "batches",
    "create_train_state",
    "evaluate",
    "fit",
    "load",
    "measure",
    "plot_history",
    "plot_samples",
    "predict",
    "train_epoch",
    "train_step",
]
