"""Several runs of one experiment, and their statistics."""

from jaxrnn.runs.sweeps.options import Sweep
from jaxrnn.runs.sweeps.summary import runs_of
from jaxrnn.runs.sweeps.sweep import sweep

__all__ = ["Sweep", "runs_of", "sweep"]
