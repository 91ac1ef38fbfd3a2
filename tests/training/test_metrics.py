"""Metrics: weighted sums that add up."""

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
    metrics = Metrics.of({"loss": values})
    assert metrics.sums["loss"].dtype == jnp.float32
    assert metrics.means()["loss"] == 1.25


@pytest.mark.parametrize(
    "weights", [np.array([True, True, False, False]), np.array([1.0, 1, 0, 0])]
)
def test_values_of_weight_zero_do_not_matter(weights):
    losses = jnp.array([0.5, 1.5, jnp.nan, jnp.inf])
    metrics = Metrics.of({"loss": losses, "accuracy": CORRECT}, jnp.asarray(weights))
    assert metrics.means() == {"loss": 1.0, "accuracy": 0.5}
    counts = weights.dtype == bool
    assert metrics.weight.dtype == (jnp.int32 if counts else jnp.float32)
    assert metrics.sums["accuracy"].dtype == (jnp.int32 if counts else jnp.float32)


def test_fractional_weights():
    metrics = Metrics.of({"loss": LOSSES}, jnp.array([0.5, 0.25, 0.0, 0.25]))
    assert metrics.means()["loss"] == pytest.approx(0.25 + 0.375 + 1.0)


def test_means_do_not_depend_on_how_elements_are_divided():
    weights = jnp.array([1.0, 2.0, 0.0, 3.0])
    whole = Metrics.of({"loss": LOSSES}, weights)
    parts = [Metrics.of({"loss": LOSSES[part]}, weights[part]) for part in (slice(1), slice(1, 4))]
    total = sum(parts, Metrics.zero())
    assert total.means()["loss"] == pytest.approx(float(whole.means()["loss"]))
    mean_of_means = np.mean([float(part.means()["loss"]) for part in parts])
    assert mean_of_means != pytest.approx(float(whole.means()["loss"]))


def test_per_step_values():
    values = jnp.arange(6.0).reshape(2, 3)
    mask = jnp.array([[True, False, False], [True, True, True]])
    assert Metrics.of({"loss": values}, mask).means()["loss"] == pytest.approx((0 + 3 + 4 + 5) / 4)
    assert Metrics.of({"loss": values}).weight == 6
