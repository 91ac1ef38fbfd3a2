"""Train a recurrent network to name MNIST digits, read pixel by pixel: 784 time steps.

    python -m experiments.sequential_mnist [--permute] [--rows 784] [--cell gru]

Two epochs on 50,000 images take about 75 seconds on 2 cores and reach a validation accuracy of
0.82 with an Elman network. --rows cuts the images into fewer, longer steps; --permute
shuffles their pixels by one fixed permutation, which removes their locality.

Source: Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
rectified linear units" (2015).
"""

from dataclasses import dataclass

from jaxrnn import (
    Adam,
    Classification,
    Experiment,
    ImageSequences,
    Muon,
    RNNConfig,
    TrainerConfig,
    main,
)


@dataclass(frozen=True, kw_only=True)
class SequentialMNIST(Experiment):
    """A recurrent network that reads images pixel by pixel."""

    data: ImageSequences = ImageSequences(
        train="train[:50000]", validation="train[50000:]", rows=784
    )
    model: RNNConfig = RNNConfig(hidden=128)
    task: Classification = Classification()
    optimizer: Adam | Muon = Muon(
        learning_rate=3e-3, muon_learning_rate=3e-3, schedule="cosine", warmup=0.05, clip_norm=1.0
    )
    trainer: TrainerConfig = TrainerConfig(epochs=2, batch_size=100)


PRESETS = {"elman": SequentialMNIST()}

if __name__ == "__main__":
    main(PRESETS, default="elman", description=__doc__)
