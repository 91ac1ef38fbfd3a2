"""Train a recurrent network to recognize MNIST digits, read pixel by pixel: 784 time steps.

    python -m experiments.sequential_mnist [elman|permuted|lru|permuted_lru] [--rows 784]

elman reaches about 97.5 % test accuracy in 20 epochs, 98.6 % with two layers in 30 (--layers 2
--pooling mean --label-smoothing 0.1 --accumulate 5 --epochs 30), and lru 99.1 % in 15. permuted and
permuted_lru shuffle the pixels with RandomState(92916).permutation(784), and reach 95.0 % in 15 and
96.6 % in 16. The networks train on the first 50,000 images. Their options were chosen on the other
10,000, except those of lru, which were chosen before its first run.

References:
  Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
  rectified linear units" (2015); A. Orvieto and others, "Resurrecting recurrent neural networks for
  long sequences" (2023), for the initial eigenvalues of lru: in a ring, with small phases.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from jaxrnn import (
    Adam,
    Classification,
    Experiment,
    ImageSequences,
    Muon,
    RNNConfig,
    TrainerConfig,
    WarpConfig,
    main,
)
from jaxrnn.runs import Optimizer

from .digits.verbs import ExportDigits, PredictDigits


@dataclass(frozen=True, kw_only=True)
class SequentialMNIST(Experiment):
    """A recurrent network that reads images pixel by pixel."""

    data: ImageSequences = ImageSequences(
        train="train[:50000]", validation="train[50000:]", rows=784, permutation=92916
    )
    model: RNNConfig = RNNConfig(hidden=128, activation="relu", initializers="identity")
    task: Classification = Classification()
    augment: WarpConfig = WarpConfig()
    optimizer: Optimizer = Muon(
        muon_learning_rate=3e-4, schedule="linear", warmup=0.05, clip_norm=1.0
    )
    trainer: TrainerConfig = TrainerConfig(epochs=20, batch_size=50)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read a stored run; those from before version 0.7 have no ``augment``, and no warps."""
        return super().from_json(content | {"augment": content.get("augment") or {}})

    predict_options = PredictDigits
    export_options = ExportDigits


# On validation data, identity was better in reading order, permutation for shuffled pixels.
_ELMAN = SequentialMNIST()
_LRU = replace(
    _ELMAN,
    model=RNNConfig(
        cell="lru",
        layers=2,
        hidden=64,
        pooling="mean",
        dropout=0.1,
        r_min=0.9,
        r_max=0.999,
        max_phase=0.314,
    ),
    optimizer=Adam(
        learning_rate=4e-3,
        schedule="cosine",
        warmup=0.1,
        clip_norm=1.0,
        weight_decay=0.05,
        lru_factor=0.25,
    ),
    trainer=replace(_ELMAN.trainer, epochs=15, accumulate=5),  # parts that fit a CPU's cache
)
PRESETS = {
    "elman": _ELMAN,
    "permuted": replace(
        _ELMAN,
        data=replace(_ELMAN.data, permute=True),
        model=replace(_ELMAN.model, hidden=256, initializers="permutation"),
        trainer=replace(_ELMAN.trainer, epochs=15),
    ),
    "lru": _LRU,
    # For shuffled pixels, a longer memory and eigenvalues of any phase.
    "permuted_lru": replace(
        _LRU,
        data=replace(_LRU.data, permute=True),
        model=replace(
            _LRU.model, hidden=72, dropout=0.15, r_min=0.99, r_max=0.9999, max_phase=6.28
        ),
        trainer=replace(_LRU.trainer, epochs=16),
    ),
}

if __name__ == "__main__":
    main(PRESETS, default="elman", description=__doc__)
