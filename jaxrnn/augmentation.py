"""Augmentation: random warps of an image, on the device, inside the compiled epoch."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_GRID = 5  # points a side of the coarse field that an elastic deformation interpolates


def random_warp(
    *,
    shift: float = 0.0,
    rotation: float = 0.0,
    zoom: float = 0.0,
    shear: float = 0.0,
    elastic: float = 0.0,
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    r"""A function that moves, turns, stretches and bends an image at random.

    The pixel at :math:`p`, measured from the centre, is read at

    .. math:: q = e^{z} R(\alpha)\,p + (0, s\,p_y) + t + d(p)

    by bilinear interpolation, and is 0 where :math:`q` lies outside. All are uniform: the angle
    :math:`\alpha`, the logarithm of the zoom :math:`z`, the shear :math:`s` and both components of
    the shift :math:`t` within ± their argument. The displacement :math:`d` is normal on a 5 × 5
    grid, with the standard deviation ``elastic``, and smooth in between.

    Args:
      shift: pixels.
      rotation: degrees.
      zoom: natural logarithm of the scale.
      shear: columns by which a row moves, for each row between it and the centre.
      elastic: pixels.

    Returns:
      A pure function from a key and one image, (height, width) floats, to its warped version, for
      ``augment`` of :func:`jaxrnn.train_epoch`; None where every argument is 0. For equal arguments
      the same object.

    Source: P. Y. Simard, D. Steinkraus and J. C. Platt, "Best practices for convolutional neural
    networks applied to visual document analysis" (2003).

    >>> image = jnp.zeros((28, 28)).at[14, 14].set(1.0)
    >>> warped = random_warp(shift=2.0)(jax.random.key(0), image)
    >>> warped.shape, bool((warped != image).any())
    ((28, 28), True)
    """
    if not (shift or rotation or zoom or shear or elastic):
        return None
    return _random_warp(shift, rotation, zoom, shear, elastic)


@functools.lru_cache  # what is compiled is compiled for one function
def _random_warp(
    shift: float, rotation: float, zoom: float, shear: float, elastic: float
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def warp(key: jax.Array, image: jax.Array) -> jax.Array:
        affine_key, elastic_key = jax.random.split(key)
        angle, log_zoom, slant, down, right = jax.random.uniform(
            affine_key, (5,), minval=-1.0, maxval=1.0
        )
        angle, log_zoom = angle * rotation * math.pi / 180, log_zoom * zoom
        cosine, sine = (f(angle) * jnp.exp(log_zoom) for f in (jnp.cos, jnp.sin))
        height, width = image.shape
        y = (jnp.arange(height) - (height - 1) / 2)[:, None]
        x = (jnp.arange(width) - (width - 1) / 2)[None, :]
        rows = cosine * y - sine * x + down * shift + (height - 1) / 2
        columns = sine * y + cosine * x + slant * shear * y + right * shift + (width - 1) / 2
        if elastic:
            coarse = elastic * jax.random.normal(elastic_key, (2, _GRID, _GRID))
            of_rows, of_columns = _smooth_weights(height), _smooth_weights(width)
            displacement = jnp.einsum("yg,kgh,xh->kyx", of_rows, coarse, of_columns)
            rows, columns = rows + displacement[0], columns + displacement[1]
        return _sample(image, rows, columns)

    return warp


def _smooth_weights(size: int) -> jax.Array:
    """(size, grid) weights: how much of each grid point's value each pixel gets."""
    position = jnp.linspace(0, _GRID - 1, size)
    near = jnp.maximum(0, 1 - jnp.abs(position[:, None] - jnp.arange(_GRID)[None, :]))
    return near * near * (3 - 2 * near)  # rises from 0 to 1 without a kink; two always sum to 1


def _sample(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The image at fractional places, (height, width) each; 0 outside."""
    height, width = image.shape
    above, left = jnp.floor(rows), jnp.floor(columns)
    down, right = rows - above, columns - left
    above, left = above.astype(jnp.int32), left.astype(jnp.int32)
    flat = image.reshape(-1)

    def at(row: jax.Array, column: jax.Array) -> Any:
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        return jnp.where(inside, flat[index], 0)

    upper = at(above, left) * (1 - right) + at(above, left + 1) * right
    lower = at(above + 1, left) * (1 - right) + at(above + 1, left + 1) * right
    return upper * (1 - down) + lower * down
