"""The protocol of all contenders: network, training options and data order."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np

Built: TypeAlias = tuple[Callable[[], None], Callable[[np.ndarray], Any]]
"""``epoch()``, which trains for one epoch in random order and waits for the device, and
``predict(images)``, which returns classes."""

Row: TypeAlias = dict[str, Any]
"""Measurements by name."""

GATES = {"simple": 1, "gru": 3, "lstm": 4}  # the work of a cell is proportional to them


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the network and its training."""

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
