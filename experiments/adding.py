"""Train a recurrent network on the adding problem: the sum of two numbers in a long sequence.

    python -m experiments.adding [elman|long|mingru] [--length 200]

Two numbers between 0 and 1 are marked, one in each half of the sequence. Always answering 1 has a
mean squared error of 0.167; the problem counts as solved below 0.05, which requires both numbers.
The preset long has a length of 600, and mingru one of 1,000.

References:
  S. Hochreiter and J. Schmidhuber, "Long short-term memory" (1997); M. Arjovsky, A. Shah and
  Y. Bengio, "Unitary evolution recurrent neural networks" (2016), for the lengths; L. Feng and
  others, "Were RNNs all we needed?" (2024), for mingru.
"""

from dataclasses import dataclass, replace

from jaxrnn import Adam, Experiment, Muon, Regression, RNNConfig, TrainerConfig, main
from jaxrnn.data import Adding
from jaxrnn.runs import Optimizer

_MUON = Muon(muon_learning_rate=1e-3, schedule="linear", warmup=0.05, clip_norm=1.0)


@dataclass(frozen=True, kw_only=True)
class AddingRNN(Experiment):
    """A recurrent network that adds two numbers."""

    data: Adding = Adding()
    model: RNNConfig = RNNConfig(hidden=128, activation="relu", initializers="identity")
    task: Regression = Regression()
    optimizer: Optimizer = _MUON
    trainer: TrainerConfig = TrainerConfig(epochs=5, batch_size=50)


# Longer sequences need a smaller learning rate for the recurrent kernel, or states grow:
# elman --length 600 --seeds 3 diverges in its second epoch.
PRESETS = {
    "elman": AddingRNN(),
    "long": AddingRNN(
        data=Adding(length=600),
        optimizer=replace(_MUON, muon_learning_rate=5e-4),
        trainer=TrainerConfig(epochs=10, batch_size=50),
    ),
    # A marked number opens the gate and is written to the state; the others hardly change it.
    "mingru": AddingRNN(
        data=Adding(length=1000),
        model=RNNConfig(hidden=128, cell="mingru", chrono=1000),
        optimizer=Adam(learning_rate=1e-2, schedule="cosine", warmup=0.05, clip_norm=1.0),
    ),
}

if __name__ == "__main__":
    main(PRESETS, default="elman", description=__doc__)
