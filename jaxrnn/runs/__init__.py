"""A run, from the command line to its results."""

from jaxrnn.runs.checkpoints import Checkpoints
from jaxrnn.runs.command_line import main
from jaxrnn.runs.config import Experiment, Optimizer, RuntimeConfig
from jaxrnn.runs.results import Progress
from jaxrnn.runs.run import run
from jaxrnn.runs.summary import runs_of
from jaxrnn.runs.sweep import sweep
from jaxrnn.runs.trained import Ensemble, Run, load_run

__all__ = [
    "Checkpoints",
    "Ensemble",
    "Experiment",
    "Optimizer",
    "Progress",
    "Run",
    "RuntimeConfig",
    "load_run",
    "main",
    "run",
    "runs_of",
    "sweep",
]
