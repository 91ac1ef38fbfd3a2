"""Train a recurrent network to recall ten symbols after a long delay.

    python -m experiments.copying [--delay 100]

A network that remembers nothing has at best a cross entropy of 10 ln 8 / (delay + 20), which the
picture shows.

Source: S. Hochreiter and J. Schmidhuber, "Long short-term memory" (1997); M. Arjovsky, A. Shah and
Y. Bengio, "Unitary evolution recurrent neural networks" (2016).
"""

from dataclasses import dataclass

from jaxrnn import Adam, Classification, Copying, Experiment, Muon, RNNConfig, TrainerConfig, main


@dataclass(frozen=True, kw_only=True)
class CopyingRNN(Experiment):
    """A recurrent network that copies symbols."""

    data: Copying = Copying()
    model: RNNConfig = RNNConfig(
        hidden=128, activation="relu", initializers="identity", pooling="none", vocabulary=10
    )
    task: Classification = Classification()
    optimizer: Adam | Muon = Muon(
        learning_rate=1e-3, muon_learning_rate=1e-3, schedule="linear", warmup=0.05, clip_norm=1.0
    )
    trainer: TrainerConfig = TrainerConfig(epochs=10, batch_size=50)


PRESETS = {"elman": CopyingRNN()}

if __name__ == "__main__":
    main(PRESETS, default="elman", description=__doc__)
