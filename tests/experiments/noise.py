"""A page whose validation error rises: its targets are noise, learned by heart."""

from dataclasses import dataclass

import numpy as np

from jaxrnn import Datasets, Experiment, Regression, Split


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Random sequences and random targets."""

    def build(self) -> Datasets:
        rng = np.random.default_rng(0)
        train, validation = (
            Split(
                rng.normal(size=(40, 5, 2)).astype(np.float32),
                targets=rng.normal(size=(40, 1)).astype(np.float32),
            )
            for _ in range(2)
        )
        return Datasets(train, {"validation": validation}, outputs=1)


@dataclass(frozen=True, kw_only=True)
class NoisyRNN(Experiment):
    """A network that learns them."""

    data: Noise = Noise()
    task: Regression = Regression()
