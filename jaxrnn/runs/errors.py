"""Errors in training, and what to do about them."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxrnn.training.fitting import NonFiniteLossError


class Advice(str):
    """A note of an error in training: what to do about it."""


@contextlib.contextmanager
def reading(workers: int) -> Iterator[None]:
    """Turn the ``RuntimeError`` of Grain, if a process that reads data ends, into ``OSError``."""
    try:
        yield
    except RuntimeError as error:
        if not workers or isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            raise
        shared = Path("/dev/shm")  # through which the processes pass what they have read
        free = shutil.disk_usage(shared).free if shared.is_dir() else sys.maxsize
        hint = f"; /dev/shm has only {free // 2**20} MiB left" if free < 2**28 else ""
        raise OSError(f"a process that reads data has ended{hint}: {error}") from error


@contextlib.contextmanager
def explained(checkpoints: Any, resume: str) -> Iterator[None]:
    """Add to an error in training what to do about it."""
    try:
        yield
    except Exception as error:
        if checkpoints.epochs:
            error.add_note(Advice(f"earlier epochs are saved in {checkpoints.folder.parent}"))
        diverged = isinstance(error, NonFiniteLossError)
        lower = "try a lower --learning-rate or --clip-norm, in another directory"
        error.add_note(Advice(lower if diverged else resume))
        raise
