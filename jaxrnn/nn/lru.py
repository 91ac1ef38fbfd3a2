"""The linear recurrent unit, and the residual blocks of its paper."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Complex, Float, Key

from jaxrnn.nn.dropout import drop
from jaxrnn.nn.linear import Parts, parts_of, scan_constant
from jaxrnn.nn.scans import project
from jaxrnn.nn.sequences import Lengths, Steps, last_valid, mask_steps

Numbers = Complex[Array, "*batch hidden"]
Weights = Sequence[Float[Array, "..."]]  # the parameters of a cell, in the order of its shapes
Keys = Key[Array, "batch"] | None

# Parameters that should have a lower learning rate and no weight decay.
RECURRENT = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im")


class LRUCell(nn.RNNCellBase):
    r"""A linear recurrent unit: a diagonal linear recurrence of complex numbers.

    .. math::

        h_t &= \lambda \odot h_{t-1} + e^{\gamma} \odot (x_t B), \quad
        \lambda = \exp(-e^{\nu} + i e^{\theta}) \\
        y_t &= \mathrm{Re}(h_t C) + D \odot x_t

    The state :math:`h_t` is (\*batch, features) complex; the output :math:`y_t` is as wide as the
    input :math:`x_t`. Initially, :math:`\lambda` is uniform on the ring of magnitudes ``r_min`` to
    ``r_max`` and phases 0 to ``max_phase``, and :math:`e^\gamma = \sqrt{1 - |\lambda|^2}` keeps the
    variance of the states that of the inputs. :class:`jaxrnn.RNN` computes it in parallel over
    time.

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
        self, carry: Numbers, inputs: Float[Array, "*batch width"]
    ) -> tuple[Numbers, Float[Array, "*batch width"]]:
        """Compute the next state and the output."""
        width = inputs.shape[-1]
        of_inputs = nn.initializers.normal((2 * width) ** -0.5)
        of_states = nn.initializers.normal(self.features**-0.5)
        initializers: dict[str, Initializer] = {
            "nu_log": partial(_draw_nu, self.r_min, self.r_max),
            "theta_log": partial(_draw_theta, self.max_phase),
            "gamma_log": lambda *_: jnp.log(-jnp.expm1(-2 * jnp.exp(weights[0]))) / 2,
            **dict.fromkeys(("B_re", "B_im"), of_inputs),
            **dict.fromkeys(("C_re", "C_im"), of_states),
            "D": nn.initializers.normal(1.0),
        }
        weights: list[Array] = []
        for name, shape in self.shapes(width).items():
            weights.append(self.param(name, initializers[name], shape, self.param_dtype))
        inputs, _ = nn.dtypes.promote_dtype(inputs, weights[-1], dtype=self.dtype)
        state = _decay(weights, inputs.ndim) * carry + jax.lax.complex(*_write(inputs, weights))
        return state, _read(inputs, parts_of(state), weights)

    @nn.nowrap
    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters, in order, for inputs of a width."""
        units = self.features
        return {
            **dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (units,)),
            **dict.fromkeys(("B_re", "B_im"), (width, units)),
            **dict.fromkeys(("C_re", "C_im"), (units, width)),
            "D": (width,),
        }

    @nn.nowrap
    def initialize_carry(self, rng: Key[Array, ""], input_shape: tuple[int, ...]) -> Numbers:
        """Create the initial state."""
        dtype = jnp.promote_types(self.param_dtype, jnp.complex64)
        return self.carry_init(rng, (*input_shape[:-1], self.features), dtype)

    num_feature_axes = 1  # of the inputs


def lru_scan(
    inputs: Steps, carry: Numbers, *weights: Float[Array, "..."], lengths: Lengths | None = None
) -> tuple[Numbers, Steps]:
    """Compute the last state and all outputs of an :class:`LRUCell`; weights as in its ``shapes``.

    Other arguments are those of :func:`jaxrnn.nn.elman_scan`.
    """
    inputs, _ = mask_steps(inputs, lengths)
    first = parts_of(carry)
    states = scan_constant(parts_of(_decay(weights, carry.ndim)), _write(inputs, weights), first)
    last = (
        last_valid(part[-1], part, of_carry, lengths)
        for part, of_carry in zip(states, first, strict=True)
    )
    return jax.lax.complex(*last), _read(inputs, states, weights)


def _draw_nu(
    r_min: float, r_max: float, key: Key[Array, ""], shape: tuple[int, ...], dtype: Dtype
) -> Array:
    """Draw the logarithm of -log|λ|, for λ uniform on a ring of the complex plane."""
    smallest = max(r_min**2, float(jnp.finfo(dtype).tiny))
    return jnp.log(-jnp.log(jax.random.uniform(key, shape, dtype, smallest, r_max**2)) / 2)


def _draw_theta(
    max_phase: float, key: Key[Array, ""], shape: tuple[int, ...], dtype: Dtype
) -> Array:
    smallest = float(jnp.finfo(dtype).tiny)
    return jnp.log(jax.random.uniform(key, shape, dtype, smallest, max_phase))


def _decay(weights: Weights, axes: int) -> Numbers:
    """Return λ, with this number of axes."""
    nu, theta, *_ = weights
    magnitude, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
    decay = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
    return jnp.expand_dims(decay, range(axes - 1))


def _write(inputs: Float[Array, "*batch width"], weights: Weights) -> Parts:
    """Return what inputs add to the states."""
    gamma, *kernels = weights[2:5]
    normalized = ((jnp.exp(gamma)[None] * kernel).astype(inputs.dtype) for kernel in kernels)
    return tuple(_product(inputs, kernel).astype(gamma.dtype) for kernel in normalized)


def _read(
    inputs: Float[Array, "*batch width"], states: Parts, weights: Weights
) -> Float[Array, "*batch width"]:
    """Return the outputs."""
    real, imaginary, skip = (leaf.astype(inputs.dtype) for leaf in weights[5:])
    of_real, of_imaginary = (part.astype(inputs.dtype) for part in states)
    skipped = jnp.expand_dims(skip, range(inputs.ndim - 1)) * inputs
    return _product(of_real, real) - _product(of_imaginary, imaginary) + skipped


def _product(vectors: Float[Array, "*batch width"], kernel: Array) -> Array:
    return project(vectors, kernel, jnp.zeros(kernel.shape[1], kernel.dtype))


def encode(
    vectors: Float[Array, "batch time features"],
    lengths: Lengths | None,
    width: int,
    dtype: Dtype | None,
) -> Steps:
    """Compute the inputs of the first block, time-major; padding is ignored, even NaN."""
    steps, _ = mask_steps(jnp.moveaxis(vectors, 1, 0), lengths)
    return nn.Dense(width, dtype=dtype, name="encoder")(steps)


def gate(
    outputs: Steps, width: int, layer: int, rate: float, keys: Keys, dtype: Dtype | None
) -> Steps:
    r"""Compute what a block adds to its inputs from the outputs :math:`y` of its recurrence.

    .. math:: (x W_v + b_v) \odot \sigma(x W_g + b_g), \quad x = \mathrm{gelu}(y)

    Both :math:`x` and the result have dropout, of the same units at all time steps.
    """
    _, batch, below = outputs.shape
    ones = jnp.ones((batch, below + width), outputs.dtype)
    before, after = jnp.split(drop(ones, rate, keys, 3 * layer + 1)[None], [below], axis=-1)
    dense = nn.Dense(2 * width, dtype=dtype, name=f"gate{layer}")
    values, gates = jnp.split(dense(nn.gelu(outputs) * before), 2, axis=-1)
    return values * nn.sigmoid(gates) * after
