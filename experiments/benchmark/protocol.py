"""What all contenders share: the network, how it is trained, and the order of the data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Built = tuple[Callable[[], None], Callable[[Any], Any]]
"""``epoch``, which trains for one epoch and returns when the work is done, and ``predict``."""

GATES = {"simple": 1, "gru": 3, "lstm": 4}  # per cell; its work is proportional to them


@dataclasses.dataclass(frozen=True)
class Options:
    """The network, and how it is trained."""

    hidden: int
    batch_size: int
    seed: int
    cell: str = "simple"


def scaled(images: Any) -> Any:
    """Pixels as floats, 0 … 1."""
    return images.astype(np.float32) / 255


def shuffled_batches(generator: np.random.Generator, size: int, batch_size: int) -> Any:
    """Indices of the whole batches of one epoch."""
    order = generator.permutation(size)
    return np.split(order[: size // batch_size * batch_size], size // batch_size)
