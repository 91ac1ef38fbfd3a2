"""Recurrent cells, recurrences, and networks built from them."""

from jaxrnn.nn.config import RNNConfig
from jaxrnn.nn.linear import MinGRUCell, linear_scan
from jaxrnn.nn.lru import LRUCell
from jaxrnn.nn.model import RNNModel
from jaxrnn.nn.recurrence import RNN
from jaxrnn.nn.scans import elman_scan, gru_scan, lstm_scan

__all__ = [
    "RNN",
    "LRUCell",
    "MinGRUCell",
    "RNNConfig",
    "RNNModel",
    "elman_scan",
    "gru_scan",
    "linear_scan",
    "lstm_scan",
]
