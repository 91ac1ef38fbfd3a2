"""What every test shares: strict JAX, one prepared copy of MNIST, no writing outside of tmp."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import matplotlib
import numpy as np
import optax
import pytest

# Before tfds is imported, which reads it once: doctests and tests prepare data here.
DATA_DIR = tempfile.mkdtemp(prefix="jaxrnn-test-data-")
os.environ["TFDS_DATA_DIR"] = DATA_DIR

import jaxrnn  # noqa: E402

matplotlib.use("agg")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure() -> None:
    shutil.rmtree(DATA_DIR, ignore_errors=True)


@pytest.fixture(scope="session")
def digits() -> jaxrnn.Split:
    """The first 500 training digits, uint8."""
    return jaxrnn.load("mnist", split="train[:500]")


@pytest.fixture(scope="session")
def state(digits: jaxrnn.Split) -> jaxrnn.TrainState:
    """A small network at step 0; pure functions leave it as it is."""
    model = jaxrnn.RNNClassifier(hidden=16)
    return jaxrnn.create_train_state(jax.random.key(0), model, optax.adam(1e-2), digits.inputs)


def leaves(tree: object) -> list[np.ndarray]:
    """The arrays of a pytree, PRNG keys aside, for bit-wise comparison."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_identical(a: object, b: object) -> None:
    """The same structure and the same bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of what XLA compiles inside the ``with`` block."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **metadata: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(metadata.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
