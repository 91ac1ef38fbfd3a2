"""Train a recurrent network to predict next year's number of sunspots.

    python -m experiments.sunspots [--file CSV]

It trains on the years up to 1900, validates on those up to 1920 and is tested up to 1955. Always
answering the mean gives an error of 1. The series comes with statsmodels: pip install --no-deps
statsmodels is enough.

References:
  SILSO, Royal Observatory of Belgium; A. S. Weigend, B. A. Huberman and D. E. Rumelhart,
  "Predicting the future: a connectionist approach" (1990).
"""

from dataclasses import dataclass

from jaxrnn import Adam, Experiment, Regression, RNNConfig, TrainerConfig, main
from jaxrnn.data import Sunspots
from jaxrnn.runs import Optimizer


@dataclass(frozen=True, kw_only=True)
class SunspotsRNN(Experiment):
    """A network that predicts the next number of a series."""

    data: Sunspots = Sunspots()
    model: RNNConfig = RNNConfig(hidden=32, cell="gru", dropout=0.2)
    task: Regression = Regression()
    optimizer: Optimizer = Adam(learning_rate=3e-3, weight_decay=0.01)
    trainer: TrainerConfig = TrainerConfig(epochs=300, batch_size=32, patience=60)


PRESETS = {"gru": SunspotsRNN()}

if __name__ == "__main__":
    main(PRESETS, default="gru", description=__doc__)
