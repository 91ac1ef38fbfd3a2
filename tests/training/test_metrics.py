"""Metrics: weighted sums that add up."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import Metrics

LOSSES = jnp.array([0.5, 1.5, 2.0, 4.0])
CORRECT = jnp.array([True, False, True, True])


def test_sums_and_dtypes():
    metrics = Metrics.of({"loss": LOSSES, "accuracy": CORRECT})
    assert metrics.means() == {"loss": 2.0, "accuracy": 0.75}
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, metrics)
    assert dtypes == Metrics({"loss": jnp.float32, "accuracy": jnp.int32}, jnp.int32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_values_are_summed_in_float32(dtype):
    values = jnp.full(100_000, 1.25, dtype)  # whose sum float16 cannot represent
    mean = Metrics.of({"loss": values}).means()["loss"]
    assert (mean, mean.dtype) == (1.25, jnp.float32)


@pytest.mark.parametrize("dtype", [bool, float])
def test_values_of_weight_zero_do_not_matter(dtype):
    weights = jnp.array([1, 1, 0, 0], dtype)
    losses = jnp.array([0.5, 1.5, jnp.nan, jnp.inf])
    metrics = Metrics.of({"loss": losses, "accuracy": CORRECT}, weights)
    assert metrics.means() == {"loss": 1.0, "accuracy": 0.5}
    expected = jnp.int32 if dtype is bool else jnp.float32
    chex.assert_type([metrics.weight, metrics.sums["accuracy"]], expected)


@pytest.mark.parametrize("edge", [1, 3])
def test_means_do_not_depend_on_how_elements_are_divided(edge):
    weights = jnp.array([0.5, 2.0, 0.0, 3.0])
    mean = (0.5 * 0.5 + 2.0 * 1.5 + 3.0 * 4.0) / 5.5
    parts = [Metrics.of({"loss": LOSSES[s]}, weights[s]) for s in np.s_[:edge, edge:]]
    assert sum(parts, Metrics.zero()).means()["loss"] == pytest.approx(mean)


def test_per_step_values():
    mask = jnp.array([[True, False], [True, True]])
    metrics = Metrics.of({"loss": LOSSES.reshape(2, 2)}, mask)
    assert (metrics.means()["loss"], metrics.weight) == ((0.5 + 2.0 + 4.0) / 3, 3)
