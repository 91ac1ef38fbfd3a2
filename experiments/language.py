"""Train a recurrent network to predict the next character of a text.

    python -m experiments.language [--text FILE] [--sample 500]

Bits per character on the last part of the text are plotted beside what gzip and xz need for it
given the text before. The text is read in parallel rows, in chunks of --truncate characters between
which the state of the network is carried over. The default text is the language reference that
comes with Python; results differ between its versions.

References:
  A. Graves, "Generating sequences with recurrent neural networks" (2013).
"""

from dataclasses import dataclass

from jaxrnn import Adam, Experiment, LanguageModeling, RNNConfig, TrainerConfig, main
from jaxrnn.data import Text
from jaxrnn.runs import Optimizer


@dataclass(frozen=True, kw_only=True)
class Language(Experiment):
    """A recurrent network that reads a text character by character."""

    data: Text = Text()
    model: RNNConfig = RNNConfig(
        hidden=512,
        cell="lstm",
        pooling="none",
        embedding=128,
        dropout=0.5,
        recurrent_dropout=0.1,
    )
    task: LanguageModeling = LanguageModeling()
    optimizer: Optimizer = Adam(learning_rate=2e-3, schedule="cosine", warmup=0.02, clip_norm=1.0)
    trainer: TrainerConfig = TrainerConfig(epochs=16, batch_size=16, truncate=100)


PRESETS = {"lstm": Language()}

if __name__ == "__main__":
    main(PRESETS, default="lstm", description=__doc__)
