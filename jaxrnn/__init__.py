"""jaxrnn: recurrent networks trained as pure functions, on JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrnn.classifier import RNNClassifier
from jaxrnn.data import (
    Adding,
    Copying,
    Datasets,
    ImageSequences,
    JapaneseVowels,
    Source,
    Split,
    Stream,
    Sunspots,
    Text,
    WarpConfig,
    batches,
    load,
    stream,
)
from jaxrnn.evaluation import evaluate, evaluate_each, evaluate_stream, predict
from jaxrnn.formats.weights import load_weights, save_weights
from jaxrnn.generation import generate
from jaxrnn.measuring import measure
from jaxrnn.metrics import Metrics
from jaxrnn.models import RNNConfig
from jaxrnn.optimizers import Adam, Muon, averaged
from jaxrnn.recurrence import RNN
from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.command_line import main
from jaxrnn.runs.errors import NonFiniteLossError
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.fitting import Record, fit
from jaxrnn.runs.groups import RuntimeConfig, TrainerConfig
from jaxrnn.runs.history import History, mean_history
from jaxrnn.runs.progress import Progress
from jaxrnn.runs.run import run
from jaxrnn.runs.stored import load_run
from jaxrnn.runs.trained import Run
from jaxrnn.state import TrainState, create_train_state
from jaxrnn.steps import StepOptions
from jaxrnn.tasks import Classification, LanguageModelling, Regression, Task
from jaxrnn.training import train_epoch, train_step
from jaxrnn.version import __version__

if TYPE_CHECKING:
    from jaxrnn.confusion import plot_confusion
    from jaxrnn.plotting import plot_history, plot_runs, plot_samples


def __getattr__(name: str) -> Any:
    # Matplotlib takes nearly a third of the time to import, and many programs draw nothing.
    if name.startswith("plot_") and name in __all__:
        module = "confusion" if name == "plot_confusion" else "plotting"
        return getattr(importlib.import_module(f"jaxrnn.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "RNN",
    "Adam",
    "Adding",
    "Checkpoints",
    "Classification",
    "Copying",
    "Datasets",
    "Experiment",
    "History",
    "ImageSequences",
    "JapaneseVowels",
    "LanguageModelling",
    "Metrics",
    "Muon",
    "NonFiniteLossError",
    "Progress",
    "RNNClassifier",
    "RNNConfig",
    "Record",
    "Regression",
    "Run",
    "RuntimeConfig",
    "Source",
    "Split",
    "StepOptions",
    "Stream",
    "Sunspots",
    "Task",
    "Text",
    "TrainState",
    "TrainerConfig",
    "WarpConfig",
    "__version__",
    "averaged",
    "batches",
    "create_train_state",
    "evaluate",
    "evaluate_each",
    "evaluate_stream",
    "fit",
    "generate",
    "load",
    "load_run",
    "load_weights",
    "main",
    "mean_history",
    "measure",
    "plot_confusion",
    "plot_history",
    "plot_runs",
    "plot_samples",
    "predict",
    "run",
    "save_weights",
    "stream",
    "train_epoch",
    "train_step",
]
