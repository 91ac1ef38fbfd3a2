"""make_optimizer: the optimizers of the experiments, described by plain numbers."""

import functools

import jax
import jax.numpy as jnp
import optax


@functools.lru_cache  # what is compiled is compiled for one optimizer object
def make_optimizer(
    *, learning_rate: float = 1e-3, epsilon: float = 1e-7
) -> optax.GradientTransformation:
    r"""Adam as TensorFlow and Keras have it, whose ε is added before the bias is corrected.

    .. math:: \theta \leftarrow \theta - \eta\,
        \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}

    That is optax's Adam with an ε of :math:`\epsilon / \sqrt{1 - \beta_2^t}` at step t.

    Args:
      learning_rate: η.
      epsilon: ε; Keras's own is 1e-7, TensorFlow's 1e-8.

    Returns:
      An optax gradient transformation: for equal arguments the same object, so that functions
      compiled for one are compiled for all.

    Source: D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization" (2015), the end of
    section 2, where the two orders of computation are given.

    >>> make_optimizer(learning_rate=0.01) is make_optimizer(learning_rate=0.01)
    True
    """

    def corrected_epsilon(count: jax.Array) -> jax.Array:
        return epsilon / jnp.sqrt(1 - 0.999 ** (count + 1.0))

    adam = optax.inject_hyperparams(optax.adam)
    return adam(learning_rate, b1=0.9, b2=0.999, eps=corrected_epsilon)
