"""Recurrent cells, recurrences, and networks built from them."""

from jaxrnn.nn.cells import MinGRUCell
from jaxrnn.nn.config import RNNConfig
from jaxrnn.nn.model import RNNModel
from jaxrnn.nn.recurrence import RNN

__all__ = ["RNN", "MinGRUCell", "RNNConfig", "RNNModel"]
