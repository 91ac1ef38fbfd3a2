"""Train a recurrent network to tell speakers apart by utterances of 7 to 29 time steps.

    python -m experiments.japanese_vowels [--folder DIR]

The data comes with sktime or aeon: pip install --no-deps sktime is enough.

References:
  M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using
  passing-through regions" (1999).
"""

from dataclasses import dataclass

from jaxrnn import Adam, Classification, Experiment, RNNConfig, TrainerConfig, main
from jaxrnn.data import JapaneseVowels
from jaxrnn.runs import Optimizer


@dataclass(frozen=True, kw_only=True)
class JapaneseVowelsRNN(Experiment):
    """A bidirectional network that identifies the speaker."""

    data: JapaneseVowels = JapaneseVowels()
    model: RNNConfig = RNNConfig(
        hidden=64, cell="gru", bidirectional=True, pooling="mean", dropout=0.5, input_dropout=0.1
    )
    task: Classification = Classification()
    optimizer: Optimizer = Adam(learning_rate=3e-3)
    trainer: TrainerConfig = TrainerConfig(epochs=100, batch_size=25, patience=30)


PRESETS = {"gru": JapaneseVowelsRNN()}

if __name__ == "__main__":
    main(PRESETS, default="gru", description=__doc__)
