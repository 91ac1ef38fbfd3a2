"""Synthetic tasks that need long memory: the adding problem and the copy-memory task."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from jaxrnn.data.readable import Datasets
from jaxrnn.data.splits import Split
from jaxrnn.groups import Count, Group

SYMBOLS, RECALLED, MARKER = 8, 10, 9  # of the copy-memory task


@dataclass(frozen=True, kw_only=True)
class Adding(Group):
    """The adding problem: the sum of two marked numbers in a long sequence."""

    length: Annotated[int, Ge(2)] = 200
    """Number of time steps in a sequence."""
    examples: Count = 20_000
    """Number of training sequences."""
    held_out: Count = 1000
    """Number of validation sequences, and of test sequences."""
    data_seed: Annotated[int, Ge(0)] = 0
    """Seed of the sequences."""

    def build(self) -> Datasets:
        """Draw the sequences.

        Inputs are (N, length, 2): numbers from 0 to 1, and marks that are 1 at one time step in
        each half and 0 elsewhere. The target is the sum of the marked numbers; always answering 1
        has a mean squared error of 1/6.

        References:
          S. Hochreiter and J. Schmidhuber, "Long short-term memory" (1997).

        >>> train = Adding(length=6, examples=3).build().train
        >>> train.inputs.shape, train.targets.shape
        ((3, 6, 2), (3, 1))
        """
        baselines = {"loss": {"always 1": 1 / 6}, "rmse": {"always 1": math.sqrt(1 / 6)}}
        return Datasets(*_draw_all(self), baselines=baselines)

    def _draw(self, rng: np.random.Generator, size: int) -> Split:
        inputs = np.zeros((size, self.length, 2), np.float32)
        inputs[..., 0] = rng.random((size, self.length), np.float32)
        rows, half = np.arange(size), self.length // 2
        marked = rng.integers(0, half, size), rng.integers(half, self.length, size)
        targets = np.zeros(size, np.float32)
        for places in marked:
            inputs[rows, places, 1] = 1
            targets += inputs[rows, places, 0]
        return Split(inputs, targets=targets[:, None])


@dataclass(frozen=True, kw_only=True)
class Copying(Group):
    """The copy-memory task: ten symbols to recall after a delay."""

    delay: Count = 100
    """Number of time steps between the symbols and their recall."""
    examples: Count = 20_000
    """Number of training sequences."""
    held_out: Count = 1000
    """Number of validation sequences, and of test sequences."""
    data_seed: Annotated[int, Ge(0)] = 0
    """Seed of the sequences."""

    def build(self) -> Datasets:
        r"""Draw the sequences.

        Inputs are (N, delay + 20) tokens: ten symbols from 1 to 8, ``delay`` blanks (0), the
        last replaced by the marker (9), and ten blanks. Labels are blanks, then the symbols at the
        last ten time steps. A network that remembers none of them has at best a cross entropy of

        .. math:: 10 \ln 8 / (\mathrm{delay} + 20)

        References:
          S. Hochreiter and J. Schmidhuber, "Long short-term memory" (1997).
          M. Arjovsky, A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks" (2016),
          for this form.

        >>> train = Copying(delay=5, examples=2).build().train
        >>> train.inputs.shape, bool((train.inputs[:, :10] == train.labels[:, -10:]).all())
        ((2, 25), True)
        """
        recalled = RECALLED / (self.delay + 2 * RECALLED)  # fraction of the time steps
        baselines = {
            "loss": {"guessing, 10 ln 8 / (delay + 20)": recalled * math.log(SYMBOLS)},
            "accuracy": {"guessing": 1 - recalled * (1 - 1 / SYMBOLS)},
        }
        return Datasets(*_draw_all(self), outputs=SYMBOLS + 1, baselines=baselines)

    def _draw(self, rng: np.random.Generator, size: int) -> Split:
        symbols = rng.integers(1, SYMBOLS + 1, (size, RECALLED), np.uint8)
        inputs = np.zeros((size, self.delay + 2 * RECALLED), np.uint8)
        labels = np.zeros_like(inputs)
        inputs[:, :RECALLED] = labels[:, -RECALLED:] = symbols
        inputs[:, -RECALLED - 1] = MARKER
        return Split(inputs, labels)


def _draw_all(group: Adding | Copying) -> tuple[Split, dict[str, Split]]:
    """Draw the training split, then the others."""
    rng = np.random.default_rng(group.data_seed)
    train = group._draw(rng, group.examples)
    return train, {name: group._draw(rng, group.held_out) for name in ("validation", "test")}
