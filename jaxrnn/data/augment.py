"""Random warps of images, on the device inside the compiled epoch."""

import functools
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxrnn.data.convert import pixel_order
from jaxrnn.groups import Group, NonNegative

_GRID = 5  # points per side of the coarse field that an elastic deformation interpolates


class ImageLayout(NamedTuple):
    """Shape and pixel order of the images from which sequences are read.

    Attributes:
      shape: (height, width[, channels]) of each image; one size may be -1, to be inferred.
      permutation: seed of the permutation of the pixel values; None if they are not permuted.
    """

    shape: tuple[int, ...]
    permutation: int | None = None


@dataclass(frozen=True, kw_only=True)
class WarpConfig(Group):
    """Random shifts, rotations, scalings, shears and elastic distortions of training images."""

    shift: NonNegative = 0.0
    """Largest shift, in pixels."""
    rotation: NonNegative = 0.0
    """Largest rotation, in degrees."""
    zoom: NonNegative = 0.0
    """Largest change of scale, as a natural logarithm."""
    shear: NonNegative = 0.0
    """Largest shear, in columns per row."""
    elastic: NonNegative = 0.0
    """Elastic distortion: standard deviation of the displacement, in pixels."""

    def build(
        self, layout: ImageLayout | None = None
    ) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
        r"""Build the function for ``augment`` of :func:`jaxrnn.train_epoch`.

        The pixel at :math:`p`, measured from the center, is read at

        .. math:: q = e^{z} R(\alpha)\,p + (0, s\,p_y) + t + d(p)

        by bilinear interpolation, and is 0 if :math:`q` lies outside. The angle :math:`\alpha`, the
        logarithm of the scale :math:`z`, the shear :math:`s` and both components of the shift
        :math:`t` are uniform between minus and plus the value of their option. The displacement
        :math:`d` is normally distributed on a 5 × 5 grid and interpolated smoothly.

        Args:
          layout: shape and pixel order of the images; by default, the inputs are (height, width)
            images of one channel.

        Returns:
          A pure function from a key and the inputs of one example, as floats, to warped inputs of
          the same shape; None if every option is 0. Equal arguments return the same function.

        References:
          P. Y. Simard, D. Steinkraus and J. C. Platt, "Best practices for convolutional neural
          networks applied to visual document analysis" (2003).

        >>> image = jnp.zeros((28, 28)).at[14, 14].set(1.0)
        >>> warped = WarpConfig(shift=2.0).build()(jax.random.key(0), image)
        >>> warped.shape, bool((warped != image).any())
        ((28, 28), True)
        """
        return _cached(_warp_sequence, self, layout) if any(astuple(self)) else None


_cached = functools.lru_cache(functools.partial)  # as jit caches by the identity of a function


def _warp_sequence(
    config: WarpConfig, layout: ImageLayout | None, key: jax.Array, inputs: jax.Array
) -> jax.Array:
    """Return the sequence with its image warped, all channels alike."""
    layout = layout or ImageLayout(inputs.shape)
    pixels, seed = inputs.reshape(-1), layout.permutation
    order = None if seed is None else pixel_order(inputs.size, seed)
    pixels = pixels if order is None else pixels[np.argsort(order)]
    image = pixels.reshape(*layout.shape[:2], math.prod(layout.shape[2:]))
    warp = functools.partial(_warp, config)
    warped = jax.vmap(warp, (None, -1), -1)(key, image).reshape(-1)
    return (warped if order is None else warped[order]).reshape(inputs.shape)


def _warp(config: WarpConfig, key: jax.Array, image: jax.Array) -> jax.Array:
    affine_key, elastic_key = jax.random.split(key)
    angle, log_zoom, slant, down, right = jax.random.uniform(
        affine_key, (5,), image.dtype, minval=-1.0, maxval=1.0
    )
    angle, log_zoom = angle * config.rotation * math.pi / 180, log_zoom * config.zoom
    cosine, sine = (f(angle) * jnp.exp(log_zoom) for f in (jnp.cos, jnp.sin))
    height, width = image.shape
    y = (jnp.arange(height, dtype=image.dtype) - (height - 1) / 2)[:, None]
    x = (jnp.arange(width, dtype=image.dtype) - (width - 1) / 2)[None, :]
    rows = cosine * y - sine * x + down * config.shift + (height - 1) / 2
    columns = sine * y + cosine * x + slant * config.shear * y
    columns = columns + right * config.shift + (width - 1) / 2
    if config.elastic:
        coarse = config.elastic * jax.random.normal(elastic_key, (2, _GRID, _GRID), image.dtype)
        row_weights, column_weights = (_smooth_weights(size, image.dtype) for size in image.shape)
        displacement = jnp.einsum("yg,kgh,xh->kyx", row_weights, coarse, column_weights)
        rows, columns = rows + displacement[0], columns + displacement[1]
    return map_coordinates(image, [rows, columns], order=1)  # 0 outside


def _smooth_weights(size: int, dtype: Any) -> jax.Array:
    """Return the interpolation weight of each grid point at each pixel, (size, grid)."""
    position = jnp.linspace(0, _GRID - 1, size, dtype=dtype)
    grid = jnp.arange(_GRID, dtype=dtype)
    near = jnp.maximum(0, 1 - jnp.abs(position[:, None] - grid[None, :]))
    return near * near * (3 - 2 * near)  # smoothstep; the weights of a pixel sum to 1
