"""Figures: curves, samples, confusion matrices, sweeps."""

from jaxrnn.plotting.confusion import plot_confusion
from jaxrnn.plotting.curves import plot_history, plot_runs
from jaxrnn.plotting.samples import plot_samples
from jaxrnn.plotting.sweep import plot_sweep

__all__ = ["plot_confusion", "plot_history", "plot_runs", "plot_samples", "plot_sweep"]
