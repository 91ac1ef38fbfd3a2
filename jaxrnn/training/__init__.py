"""Training: tasks, optimizers, steps, epochs, evaluation, and the loop over epochs."""

from jaxrnn.training.epochs import train_block, train_epoch
from jaxrnn.training.evaluation import evaluate, generate, predict
from jaxrnn.training.fitting import Record, TrainerConfig, fit
from jaxrnn.training.forward import measure
from jaxrnn.training.history import History
from jaxrnn.training.metrics import Metrics, NonFiniteLossError
from jaxrnn.training.optimizers import Adam, Muon, averaged
from jaxrnn.training.state import TrainState, create_train_state, merged
from jaxrnn.training.steps import StepOptions, train_step
from jaxrnn.training.tasks import Classification, LanguageModeling, Regression, Task

__all__ = [
    "Adam",
    "Classification",
    "History",
    "LanguageModeling",
    "Metrics",
    "Muon",
    "NonFiniteLossError",
    "Record",
    "Regression",
    "StepOptions",
    "Task",
    "TrainState",
    "TrainerConfig",
    "averaged",
    "create_train_state",
    "evaluate",
    "fit",
    "generate",
    "measure",
    "merged",
    "predict",
    "train_block",
    "train_epoch",
    "train_step",
]
