"""A trained network in the formats of other programs."""

from jaxrnn.export.onnx import to_onnx
from jaxrnn.export.stablehlo import to_stablehlo
from jaxrnn.export.weights import load_weights, save_weights

__all__ = ["load_weights", "save_weights", "to_onnx", "to_stablehlo"]
