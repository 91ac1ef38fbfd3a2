"""The GPU kernel of the recurrence, interpreted on the CPU, against the scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import RNNClassifier, RNNConfig, hopper
from jaxrnn.scans import DERIVATIVES, scan

TIME, BATCH, HIDDEN = 4, 70, 37  # two blocks of rows, two tiles of columns, neither of them full


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PROJECTED, CARRY = normal(0, TIME, BATCH, HIDDEN), normal(1, BATCH, HIDDEN)
KERNEL = normal(2, HIDDEN, HIDDEN) / 6
OF_LAST, OF_STATES = normal(3, BATCH, HIDDEN), normal(4, TIME, BATCH, HIDDEN)


@pytest.fixture
def interpret():
    """The interpreter's parameters; JAX has no public name for them."""
    params = pytest.importorskip("jax._src.pallas.mosaic_gpu.interpret.params")
    return params.InterpretGPUParams(detect_races=True)


def states(activation, projected):
    return scan(activation, False, 1, projected, CARRY, KERNEL)[1]


@pytest.mark.program
@pytest.mark.parametrize("activation", list(DERIVATIVES))
def test_states_are_those_of_the_scan(activation, interpret):
    ours = hopper.scan_states(activation, PROJECTED, CARRY, KERNEL, interpret=interpret)
    np.testing.assert_allclose(ours, states(activation, PROJECTED), atol=1e-5)


@pytest.mark.program
def test_several_networks_are_those_of_the_scan(interpret):
    def ours(projected):
        return hopper.scan_states(jnp.tanh, projected, CARRY, KERNEL, interpret=interpret)

    both = jnp.stack([PROJECTED, -PROJECTED])
    expected = [states(jnp.tanh, projected) for projected in both]
    np.testing.assert_allclose(jax.vmap(ours)(both), jnp.stack(expected), atol=1e-5)


@pytest.mark.program
@pytest.mark.parametrize("of_states", [None, OF_STATES])
def test_gradients_are_those_of_the_scan(of_states, interpret):
    def loss(projected):
        found = states(jnp.tanh, projected)
        return (found[-1] * OF_LAST).sum() + (0 if of_states is None else (found * of_states).sum())

    ours = hopper.scan_deltas(
        DERIVATIVES[jnp.tanh],
        OF_LAST,
        KERNEL,
        states(jnp.tanh, PROJECTED),
        of_states,
        interpret=interpret,
    )
    np.testing.assert_allclose(ours, jax.grad(loss)(PROJECTED), atol=1e-5)


def test_on_a_cpu_the_network_is_the_fast_one():
    inputs = normal(5, 3, 5, 4)

    def value_and_gradient(recurrence):
        model = RNNClassifier(hidden=6, recurrence=recurrence)
        params = model.init(jax.random.key(0), inputs)
        return jax.jit(jax.value_and_grad(lambda p: (model.apply(p, inputs) ** 2).sum()))(params)

    jax.tree.map(
        np.testing.assert_array_equal, value_and_gradient("hopper"), value_and_gradient("fast")
    )


@pytest.mark.parametrize(
    ("recurrence", "activation", "directions"),
    [("fast", "tanh", 1), ("hopper", "tanh", 1), ("hopper", "relu", 1), ("hopper", "tanh", 2)],
)
def test_the_kernel_is_used_for_nvidia_alone(recurrence, activation, directions):
    model = RNNClassifier(
        recurrence=recurrence, activation=activation, bidirectional=directions == 2
    )
    inputs = jnp.zeros((2, 28, 28))
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    grad = jax.jit(jax.grad(lambda params: model.apply(params, inputs).sum())).trace(params)
    kernels = [
        grad.lower(lowering_platforms=(platform,)).as_text().count("custom_call @mosaic_gpu")
        for platform in ("cpu", "cuda")
    ]
    assert kernels == [0, 2 * directions * (recurrence == "hopper")]


def test_second_derivatives_are_refused():
    model, inputs = RNNClassifier(hidden=3, recurrence="hopper"), jnp.zeros((2, 4, 5))
    params = model.init(jax.random.key(0), inputs)
    with pytest.raises(TypeError, match="supports first derivatives only"):
        jax.jit(jax.hessian(lambda params: model.apply(params, inputs).sum()))(params)


class Gpu:
    platform = "gpu"

    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize(("capability", "expected"), [("9.0", True), ("8.0", False)])
def test_other_gpus_fall_back_to_the_scan(capability, expected, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Gpu(capability)])
    assert hopper.is_supported(jnp.zeros((28, 2, 8)), jnp.zeros((8, 8))) is expected


@pytest.mark.parametrize(
    "option", [{"cell": "gru"}, {"dtype": "bfloat16"}, {"hidden": 161}, {"recurrent_dropout": 0.1}]
)
def test_unsupported_options_are_refused(option):
    with pytest.raises(ValueError, match="--recurrence hopper needs --cell simple"):
        RNNConfig(recurrence="hopper", **option)


@pytest.mark.parametrize(
    ("shape", "dtype", "precision", "expected"),
    [
        ((28, 150, 150), jnp.float32, None, True),
        ((28, 150, 160), jnp.float32, "tensorfloat32", True),
        ((28, 150, 161), jnp.float32, None, False),
        ((28, 2, 3, 150), jnp.float32, None, False),
        ((28, 150, 150), jnp.bfloat16, None, False),
        ((28, 150, 150), jnp.float32, "highest", False),
    ],
)
def test_supported_shapes_types_and_precisions(shape, dtype, precision, expected):
    projected, kernel = jnp.zeros(shape, dtype), jnp.zeros((shape[-1], shape[-1]), dtype)
    with jax.default_matmul_precision(precision):
        assert hopper.is_supported(projected, kernel) is expected
