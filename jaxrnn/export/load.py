"""Run this network with JAX and NumPy alone: python load.py INPUTS.npy, or import predict."""

import json
import sys
from pathlib import Path

import numpy as np
from jax import export

ABOUT = json.loads(Path(__file__).with_name("model.json").read_bytes())
NETWORK = export.deserialize(bytearray(Path(__file__).with_name("model.stablehlo").read_bytes()))


def predict(inputs: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Compute the outputs for (batch, …) inputs; in classification they are logits."""
    inputs = inputs * np.float32(ABOUT["input"]["scale"]) if inputs.dtype.kind in "iu" else inputs
    lengths = np.full(len(inputs), inputs.shape[1]) if lengths is None else np.asarray(lengths)
    arguments = inputs.astype(ABOUT["input"]["dtype"]), lengths.astype(np.int32)
    return np.asarray(NETWORK.call(*arguments[: 1 + ABOUT["lengths"]]))


if __name__ == "__main__":
    print(predict(np.load(sys.argv[1])).tolist())
