"""WarpConfig against the effect of each option, and scipy's interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import WarpConfig
from jaxrnn.data import ImageLayout
from jaxrnn.data.convert import as_sequences

KEYS = jax.random.split(jax.random.key(0), 200)


def dot(row, column, size=28):
    return jnp.zeros((size, size)).at[row, column].set(1.0)


def centers(warp, image):
    """(200, 2): where the brightness of the image goes."""
    warped = np.asarray(jax.jit(jax.vmap(warp, (0, None)))(KEYS, image))
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"))
    return np.einsum("nij,kij->nk", warped, grid) / warped.sum((1, 2))[:, None]


def test_default_config_builds_nothing():
    assert WarpConfig().build() is None
    assert WarpConfig(shift=1.0).build() is WarpConfig(shift=1.0, rotation=0.0).build()


def test_shift_is_bounded():
    moved = centers(WarpConfig(shift=3.0).build(), dot(14, 10)) - [14, 10]
    assert np.abs(moved).max() <= 3.5
    np.testing.assert_allclose(np.abs(moved).mean(0), 1.5, atol=0.3)
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.3  # one does not follow from the other


def test_rotation_and_zoom_keep_the_center():
    blob = jnp.zeros((29, 29)).at[13:16, 13:16].set(1.0)
    for options in ({"rotation": 45.0}, {"zoom": 0.3}):
        np.testing.assert_allclose(centers(WarpConfig(**options).build(), blob), 14, atol=0.1)


def test_rotation_is_bounded():
    image = jnp.zeros((29, 29)).at[13:16, 22:25].set(1.0)
    place = centers(WarpConfig(rotation=30.0).build(), image) - 14
    angle = np.degrees(np.arctan2(place[:, 0], place[:, 1]))
    assert 25 < np.abs(angle).max() < 32
    np.testing.assert_allclose(np.hypot(*place.T), 9, atol=0.5)


def test_zoom_is_bounded():
    image = jnp.zeros((29, 29)).at[13:16, 22:25].set(1.0)
    distance = centers(WarpConfig(zoom=0.2).build(), image)[:, 1] - 14
    assert distance.min() == pytest.approx(9 * np.exp(-0.2), abs=0.4)
    assert distance.max() == pytest.approx(9 * np.exp(0.2), abs=0.4)


def test_shear_moves_rows_away_from_the_center():
    above = centers(WarpConfig(shear=0.5).build(), jnp.zeros((29, 29)).at[6, 13:16].set(1.0))
    np.testing.assert_allclose(above[:, 0], 6, atol=1e-4)
    assert np.abs(above[:, 1] - 14).max() == pytest.approx(4, abs=0.3)


def test_elastic_displacements_have_their_deviation():
    moved = centers(WarpConfig(elastic=1.0).build(), dot(14, 14)) - 14
    # At a grid point the field is the grid's own value; here almost.
    np.testing.assert_allclose(moved.std(0), 1.0, atol=0.25)


def test_same_key_gives_the_same_image():
    config = WarpConfig(shift=2.0, rotation=10.0, zoom=0.1, shear=0.1, elastic=1.0)
    warp = jax.jit(config.build())
    image = jax.random.uniform(jax.random.key(1), (28, 28))
    np.testing.assert_array_equal(warp(KEYS[0], image), warp(KEYS[0], image))
    assert (warp(KEYS[0], image) != warp(KEYS[1], image)).any()


@pytest.mark.parametrize(("rows", "permute"), [(None, False), (784, False), (784, 0), (14, 3)])
def test_sequences_are_warped_as_the_images_they_were_read_from(rows, permute):
    config = WarpConfig(shift=2.0, rotation=10.0, elastic=1.0)
    images = np.asarray(jax.random.uniform(jax.random.key(1), (200, 28, 28, 3)))
    warp = jax.vmap(jax.vmap(config.build(), (None, -1), -1))  # every channel with the same key
    expected = as_sequences(np.asarray(warp(KEYS, images)), rows, permute=permute)
    warp = config.build(ImageLayout((28, 28, 3), None if permute is False else permute))
    warped = jax.vmap(warp)(KEYS, as_sequences(images, rows, permute=permute))
    np.testing.assert_allclose(warped, expected, atol=1e-5)
