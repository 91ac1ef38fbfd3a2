"""The linear recurrent unit, and the residual blocks of its paper."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Complex, Float, Key

from jaxrnn.nn.dropout import drop
from jaxrnn.nn.linear import linear_scan
from jaxrnn.nn.sequences import Lengths, Steps, mask_steps, project

Numbers = Complex[Array, "*batch hidden"]
Vectors = Float[Array, "*batch width"]
Keys = Key[Array, "batch"] | None


class LRUCell(nn.RNNCellBase):
    r"""A linear recurrent unit: a diagonal linear recurrence of complex numbers.

    .. math::

        h_t &= \lambda \odot h_{t-1} + e^{\gamma} \odot (x_t B), \quad
        \lambda = \exp(-e^{\nu} + i e^{\theta}) \\
        y_t &= \mathrm{Re}(h_t C) + D \odot x_t

    The state :math:`h_t` is (\*batch, features) complex; the output :math:`y_t` is as wide as the
    input :math:`x_t`. The initial :math:`\lambda` is uniform on the ring with magnitudes from
    ``r_min`` to ``r_max`` and phases from 0 to ``max_phase``; :math:`e^\gamma = \sqrt{1 -
    |\lambda|^2}` keeps the states at the variance of the inputs. :class:`jaxrnn.RNN` runs the cell
    in parallel over time.

    References:
      A. Orvieto and others, "Resurrecting recurrent neural networks for long sequences" (2023).

    >>> cell = LRUCell(features=4)
    >>> carry = cell.initialize_carry(jax.random.key(0), (2, 3))
    >>> variables = cell.init(jax.random.key(0), carry, jnp.zeros((2, 3)))
    >>> state, outputs = cell.apply(variables, carry, jnp.ones((2, 3)))
    >>> state.shape, state.dtype.name, outputs.shape
    ((2, 4), 'complex64', (2, 3))
    """

    features: int
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 6.28
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self,
        carry: Numbers,
        inputs: Vectors,
        *,
        whole: bool = False,
        lengths: Lengths | None = None,
    ) -> tuple[Numbers, Vectors]:
        """Compute the next state and the output.

        With ``whole``, inputs are time-major sequences, and the results are the last state and all
        outputs; for ``lengths``, see :func:`jaxrnn.nn.elman_scan`.
        """
        width, units, normal = inputs.shape[-1], self.features, nn.initializers.normal
        param = lambda name, init, *shape: self.param(name, init, shape, self.param_dtype)  # noqa: E731
        ring = _uniform(self.r_min**2, self.r_max**2)  # squares are uniform
        nu = param("lru_nu", lambda *of: jnp.log(-jnp.log(ring(*of)) / 2), units)
        phases = _uniform(0.0, self.max_phase)
        theta = param("lru_theta", lambda *of: jnp.log(phases(*of)), units)
        gamma = param("lru_gamma", lambda *_: jnp.log(-jnp.expm1(-2 * jnp.exp(nu))) / 2, units)
        small = normal((2 * width) ** -0.5)
        writing = [param(name, small, width, units) for name in ("lru_B_re", "lru_B_im")]
        reading = [param(name, normal(units**-0.5), units, width) for name in ("C_re", "C_im")]
        skip = param("D", normal(1.0), width)

        inputs, _ = nn.dtypes.promote_dtype(inputs, skip, dtype=self.dtype)
        steps, _ = mask_steps(inputs if whole else inputs[None], lengths)
        kernels = (jnp.exp(gamma)[None] * kernel for kernel in writing)
        added = (_product(steps, kernel).astype(nu.dtype) for kernel in kernels)
        magnitude, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
        decay = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
        last, states = linear_scan(decay, jax.lax.complex(*added), carry, lengths=lengths)
        parts = (part.astype(steps.dtype) for part in (states.real, states.imag))
        real, imaginary = map(_product, parts, reading)
        skipped = jnp.expand_dims(skip.astype(steps.dtype), range(steps.ndim - 1)) * steps
        outputs = real - imaginary + skipped
        return last, outputs if whole else outputs[0]

    @nn.nowrap
    def initialize_carry(self, rng: Key[Array, ""], input_shape: tuple[int, ...]) -> Numbers:
        """Create the initial state."""
        dtype = jnp.promote_types(self.param_dtype, jnp.complex64)
        return self.carry_init(rng, (*input_shape[:-1], self.features), dtype)

    num_feature_axes = 1  # of the inputs


def _uniform(low: float, high: float) -> Initializer:
    """Return a uniform initializer that avoids 0, so that its logarithm is finite."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: Dtype) -> Array:
        smallest = float(jnp.finfo(dtype).tiny)
        return jax.random.uniform(key, shape, dtype, max(low, smallest), high)

    return draw


def _product(steps: Steps, kernel: Float[Array, "features width"]) -> Steps:
    """Multiply in the dtype of the inputs."""
    return project(steps, kernel.astype(steps.dtype), jnp.zeros(kernel.shape[1], steps.dtype))


def encode(vectors: Array, lengths: Lengths | None, width: int, dtype: Dtype | None) -> Steps:
    """Compute the inputs of the first block, time-major; padding is ignored, even NaN."""
    steps, _ = mask_steps(jnp.moveaxis(vectors, 1, 0), lengths)
    return nn.Dense(width, dtype=dtype, name="encoder")(steps)


def gate(
    outputs: Steps, width: int, layer: int, rate: float, keys: Keys, dtype: Dtype | None
) -> Steps:
    r"""Compute the residual branch of a block from the outputs :math:`y` of its recurrence.

    .. math:: (x W_v + b_v) \odot \sigma(x W_g + b_g), \quad x = \mathrm{gelu}(y)

    Dropout applies to :math:`x` and to the result, with one mask for all time steps.
    """
    _, batch, below = outputs.shape
    ones = jnp.ones((batch, below + width), outputs.dtype)
    before, after = jnp.split(drop(ones, rate, keys, 3 * layer + 1)[None], [below], axis=-1)
    dense = nn.Dense(2 * width, dtype=dtype, name=f"gate{layer}")
    values, gates = jnp.split(dense(nn.gelu(outputs) * before), 2, axis=-1)
    return values * nn.sigmoid(gates) * after
