"""What all contenders share: the network, how it is trained, and the order of the data."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np

Built: TypeAlias = tuple[Callable[[], None], Callable[[np.ndarray], Any]]
"""``epoch()``, which trains for one epoch in random order and returns when the work is done, and
``predict(images)``, which returns their classes."""

Row: TypeAlias = dict[str, Any]
"""What was measured, by name."""

GATES = {"simple": 1, "gru": 3, "lstm": 4}  # per cell; its work is proportional to them


@dataclasses.dataclass(frozen=True)
class Options:
    """The network, and how it is trained."""

    hidden: int
    batch_size: int
    seed: int = 0
    cell: Literal["simple", "gru", "lstm"] = "simple"


def scaled(images: np.ndarray) -> np.ndarray:
    """Scale pixels to floats from 0 to 1."""
    return images.astype(np.float32) / 255


def shuffled_batches(
    generator: np.random.Generator, size: int, batch_size: int
) -> list[np.ndarray]:
    """Return the indices of the whole batches of an epoch, in random order."""
    order = generator.permutation(size)
    return np.split(order[: size // batch_size * batch_size], size // batch_size)
