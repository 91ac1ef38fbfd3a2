"""Several runs of one experiment, and their statistics."""

from jaxrnn.runs.sweeps.summary import runs_of
from jaxrnn.runs.sweeps.sweep import sweep

__all__ = ["runs_of", "sweep"]
