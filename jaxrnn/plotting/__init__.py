"""Figures: curves, samples, confusion matrices."""

from jaxrnn.plotting.confusion import plot_confusion
from jaxrnn.plotting.curves import plot_history, plot_runs
from jaxrnn.plotting.samples import plot_samples

__all__ = ["plot_confusion", "plot_history", "plot_runs", "plot_samples"]
