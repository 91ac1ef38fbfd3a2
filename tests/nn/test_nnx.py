"""jaxrnn.nn.nnx.RNN against flax.nnx.RNN: values, gradients and transformations."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import settings

from jaxrnn.nn.nnx import RNN
from tests.nn.test_recurrence import (
    DTYPES,
    INPUTS,
    any_recurrence,
    close,
    count_products,
    inputs_of,
    normal,
    result,
    weighted_sum,
)

KINDS = (nnx.SimpleCell, nnx.GRUCell)


def build(kind, features=3, hidden=4, seed=0, **options):
    bias = nnx.initializers.normal()
    return kind(features, hidden, bias_init=bias, rngs=nnx.Rngs(seed), **options)


def pair(cell, **options):
    """Two networks with the same cell."""
    return RNN(cell, **options), nnx.RNN(nnx.clone(cell), **options)


def loss(model, inputs, carry=None, **call):
    outputs = model(inputs, initial_carry=carry, **call)
    return weighted_sum(outputs), outputs


@partial(nnx.jit, static_argnames="call")
def everything(model, inputs, carry=None, lengths=None, call=()):
    """Outputs and gradients, compiled as one program, which costs least."""
    wanted = (0, 1) if carry is None else (0, 1, 2)
    run = partial(loss, seq_lengths=lengths, **dict(call))
    gradients, outputs = nnx.grad(run, argnums=wanted, has_aux=True)(model, inputs, carry)
    return outputs, nnx.to_pure_dict(gradients[0]), gradients[1:]


@pytest.mark.program
@settings(deadline=None, max_examples=3)
@any_recurrence
def test_values_and_gradients(sizes, activation, flags, options, seed):
    _, _, features, hidden, unroll = sizes
    gru, residual, *with_more = flags
    own = {"activation_fn": activation, **({} if gru else {"residual": residual})}
    cell = build(nnx.GRUCell if gru else nnx.SimpleCell, features, hidden, seed, **own)
    call = inputs_of(sizes, seed, *with_more, options)
    close(*(everything(model, *call) for model in pair(cell, unroll=unroll)))


@pytest.mark.program
@pytest.mark.parametrize(("batch", "kind"), [((2, 3), nnx.SimpleCell), ((), nnx.GRUCell)])
def test_other_numbers_of_batch_axes(batch, kind):
    inputs = normal(0, *batch, 5, 3)
    close(*(everything(model, inputs) for model in pair(build(kind), return_carry=True)))


def outputs_of(cls, kind, inputs, options):
    return cls(build(kind, **options))(inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes(kind):
    """Result types of every combination, and numbers where dtypes are mixed."""
    kernel = nnx.initializers.normal()  # LAPACK, behind the orthogonal one, has no bfloat16
    for dtype, param_dtype, inputs_dtype in [*DTYPES, (None, jnp.float32, jnp.int32)]:
        options = {"dtype": dtype, "param_dtype": param_dtype, "recurrent_kernel_init": kernel}
        inputs = INPUTS.astype(inputs_dtype)
        runs = [partial(outputs_of, cls, kind, inputs, options) for cls in (RNN, nnx.RNN)]
        ours, theirs = (result(partial(jax.eval_shape, run)) for run in runs)
        assert ours == theirs
        mixed = len({dtype or param_dtype, param_dtype, inputs_dtype}) > 1
        if mixed and not isinstance(theirs, str):
            low = theirs.dtype == jnp.bfloat16
            close(*(jax.jit(run)() for run in runs), atol=2e-2 if low else 2e-5)


class Doubled(nnx.SimpleCell):
    """A subclass, which may compute something else."""

    def __call__(self, carry, inputs):
        return super().__call__(carry, 2 * inputs)


def promote_nothing(arguments, **options):
    return arguments


def with_precision(cell):
    """Set an attribute of a layer, as its user may."""
    cell.dense_h.precision = "highest"
    return cell


def products_in_loop(model, inputs=INPUTS):
    graph, variables = nnx.split(model)
    run = lambda variables: nnx.merge(graph, variables)(inputs)  # noqa: E731
    return count_products(jax.make_jaxpr(run)(variables).jaxpr)


@pytest.mark.parametrize(
    ("cell", "options", "products"),
    [
        (build(nnx.SimpleCell), {}, 1),  # that of the state alone
        (build(nnx.GRUCell), {}, 2),
        (build(nnx.SimpleCell), {"broadcast_rngs": "carry"}, 2),
        (build(nnx.SimpleCell), {"state_axes": {...: None}}, 2),
        (build(nnx.SimpleCell, promote_dtype=promote_nothing), {}, 2),
        (build(nnx.LSTMCell), {}, 8),
        (build(nnx.OptimizedLSTMCell), {}, 2),
        (build(Doubled), {}, 2),
        (with_precision(build(nnx.SimpleCell)), {}, 2),
    ],
)
def test_only_what_flax_has_by_default_is_replaced(cell, options, products):
    models = pair(cell, return_carry=True, **options)
    assert products_in_loop(models[0]) == products
    close(*(model(INPUTS) for model in models))


@pytest.mark.parametrize(
    ("kind", "lengths"), [(nnx.SimpleCell, jnp.array([3, 5])), (nnx.GRUCell, None)]
)
def test_bidirectional(kind, lengths):
    def run(cls):
        directions = (cls(build(kind, seed=seed)) for seed in (0, 1))
        return nnx.Bidirectional(*directions, return_carry=True)(INPUTS, seq_lengths=lengths)

    close(*map(run, (RNN, nnx.RNN)))


@pytest.mark.filterwarnings("ignore:keep_rngs argument is deprecated", "ignore:carry_init")
@pytest.mark.parametrize("kind", KINDS)
def test_state_of_modules_is_that_of_flax(kind):
    """Parameters and random numbers, after calls too; a module that is split and merged goes on."""
    options = {"keep_rngs": True, "carry_init": nnx.initializers.normal()}
    models = [cls(build(kind, **options), rngs=nnx.Rngs(5)) for cls in (RNN, nnx.RNN)]
    given = [nnx.Rngs(7), nnx.Rngs(7)]
    for rngs in ([None, None], given):
        for carry in (None, jnp.ones((2, 4))):
            calls = zip(models, rngs, strict=True)
            close(*(model(INPUTS, initial_carry=carry, rngs=own) for model, own in calls))
    for modules in (models, given):
        chex.assert_trees_all_equal(*(nnx.to_pure_dict(nnx.state(module)) for module in modules))
    merged = nnx.merge(*nnx.split(models[0]))
    assert isinstance(merged, RNN)
    close(merged(INPUTS), models[1](INPUTS))


def test_mistakes_raise_the_errors_of_flax():
    models = pair(build(nnx.SimpleCell))
    close(*(model(jnp.zeros((0, 5, 3))) for model in models))  # no mistake
    for call in (
        {"inputs": jnp.zeros((2, 5, 4))},
        {"inputs": INPUTS, "initial_carry": jnp.zeros((2, 5))},
        {"inputs": INPUTS, "initial_carry": (jnp.zeros((2, 4)),) * 2},
    ):
        errors = []
        for model in models:
            with pytest.raises(Exception) as caught:  # noqa: PT011
                model(**call)
            errors.append(caught.value)
        assert type(errors[0]) is type(errors[1])
