"""jaxrnn.RNN against flax.linen.RNN: values, gradients and transformations."""

import itertools
from dataclasses import dataclass
from functools import partial

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import RNN
from jaxrnn.nn.cells import is_recurrent_kernel


def close(ours, theirs, atol=2e-5):
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=atol)


def pair(cell, **options):
    return RNN(cell, **options), nn.RNN(cell, **options)


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


INPUTS = normal(3, 2, 5, 3)


def agree(ours, theirs, inputs=INPUTS):
    """Check that parameters and outputs are the same; return the parameters."""
    variables = theirs.init(jax.random.key(0), inputs)
    close(ours.init(jax.random.key(0), inputs), variables)
    close(ours.apply(variables, inputs), theirs.apply(variables, inputs))
    return variables


def weighted_sum(outputs):
    """Every output with a weight of its own, so that no gradient hides behind another."""
    return sum(
        (jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)).astype(leaf.dtype) * leaf).sum()
        for leaf in jax.tree.leaves(outputs)
    )


def loss(model, variables, inputs, carry=None, **call):
    return weighted_sum(model.apply(variables, inputs, initial_carry=carry, **call))


@partial(jax.jit, static_argnames=("model", "call"))
def everything(model, inputs, carry=None, lengths=None, call=()):
    """Parameters, outputs and gradients, compiled as one program, which costs least."""
    options = {**dict(call), "seq_lengths": lengths}
    variables = model.init(jax.random.key(0), inputs, initial_carry=carry, **options)
    outputs = model.apply(variables, inputs, initial_carry=carry, **options)
    wanted = (0, 1) if carry is None else (0, 1, 2)
    gradients = jax.grad(partial(loss, model, **options), wanted)(variables, inputs, carry)
    return variables, outputs, gradients


any_recurrence = given(
    sizes=st.tuples(*(st.integers(1, most) for most in (6, 3, 3, 4, 4))),
    activation=st.sampled_from([nn.tanh, nn.relu, nn.sigmoid, nn.gelu]),
    flags=st.tuples(*[st.booleans()] * 4),
    options=st.fixed_dictionaries(
        {name: st.booleans() for name in ("return_carry", "time_major", "reverse", "keep_order")}
    ),
    seed=st.integers(0, 99),
)


def inputs_of(sizes, seed, with_carry, with_lengths, options):
    """Inputs, and the arguments of the call."""
    time, batch, features, hidden, _ = sizes
    inputs = normal(seed, *((time, batch) if options["time_major"] else (batch, time)), features)
    carry = normal(seed + 1, batch, hidden) if with_carry else None
    lengths = jax.random.randint(jax.random.key(seed), (batch,), 1, time + 1)
    return inputs, carry, lengths if with_lengths else None, tuple(options.items())


@pytest.mark.program
@settings(deadline=None, max_examples=3)
@any_recurrence
def test_values_and_gradients(sizes, activation, flags, options, seed):
    *_, hidden, unroll = sizes
    gru, residual, *with_more = flags
    own: dict = {"activation_fn": activation, "bias_init": nn.initializers.normal()}
    cell = nn.GRUCell(hidden, **own) if gru else nn.SimpleCell(hidden, **own, residual=residual)
    call = inputs_of(sizes, seed, *with_more, options)
    close(*(everything(model, *call) for model in pair(cell, unroll=unroll)))


@pytest.mark.program
@pytest.mark.parametrize(("batch", "cell"), [((), nn.SimpleCell(4)), ((2, 3), nn.GRUCell(4))])
def test_other_numbers_of_batch_axes(batch, cell):
    close(*(everything(model, normal(0, *batch, 5, 3)) for model in pair(cell)))


def result(run):
    """What a function returns, or the first line of its error."""
    try:
        return run()
    except TypeError as error:  # a carry that changes its type in the first step
        return str(error).splitlines()[0]


DTYPES = [*itertools.product((None, jnp.float32, jnp.bfloat16), *[(jnp.float32, jnp.bfloat16)] * 2)]


@pytest.mark.parametrize("kind", [nn.SimpleCell, nn.GRUCell])
def test_dtypes(kind):
    """Result types of every combination, and numbers where dtypes are mixed."""
    for dtype, param_dtype, inputs_dtype in DTYPES:
        cell = kind(  # LAPACK, behind the orthogonal initializer, has no bfloat16
            4, dtype=dtype, param_dtype=param_dtype, recurrent_kernel_init=nn.initializers.normal()
        )
        inputs, key = normal(0, 2, 5, 3, dtype=inputs_dtype), jax.random.key(0)
        runs = [partial(model.init_with_output, key, inputs) for model in pair(cell)]
        ours, theirs = (result(partial(jax.eval_shape, run)) for run in runs)
        assert ours == theirs
        mixed = len({dtype or param_dtype, param_dtype, inputs_dtype}) > 1
        if mixed and not isinstance(theirs, str):
            low = theirs[0].dtype == jnp.bfloat16
            close(*(jax.jit(run)() for run in runs), atol=2e-2 if low else 2e-5)


@pytest.fixture(scope="module")
def small():
    inputs = normal(3, 4, 5, 3)
    ours, theirs = pair(nn.SimpleCell(4), return_carry=True)
    return ours, theirs, ours.init(jax.random.key(0), inputs), inputs


def test_under_jit_and_vmap(small):
    *models, variables, inputs = small
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), variables)

    def gradients(model):
        gradient = jax.grad(partial(loss, model), (0, 1))
        return jax.jit(jax.vmap(gradient, in_axes=(0, None)))(many, inputs)

    close(*map(gradients, models))


def of_gradient(function):
    return lambda variables: jax.jvp(jax.grad(function), (variables,), (variables,))


@pytest.mark.program
@pytest.mark.parametrize(
    ("derivative", "options"),
    [
        (jax.hessian, {}),
        (lambda f: jax.jacrev(jax.jacrev(f)), {}),
        (lambda f: jax.jacfwd(jax.jacfwd(f)), {}),
        (lambda f: jax.jacrev(jax.jacfwd(f)), {}),
        *((of_gradient, own) for own in ({}, {"residual": True}, {"activation_fn": nn.relu})),
    ],
)
def test_second_derivatives(derivative, options):
    models, inputs = pair(nn.SimpleCell(2, **options), return_carry=True), normal(3, 2, 3, 2)
    variables = models[0].init(jax.random.key(0), inputs)
    losses = (partial(loss, model, inputs=inputs) for model in models)
    close(*(jax.jit(derivative(function))(variables) for function in losses), atol=1e-4)


@pytest.mark.parametrize("activation", [nn.tanh, nn.gelu])
def test_forward_mode(activation):
    models, inputs = pair(nn.SimpleCell(4, activation_fn=activation), return_carry=True), INPUTS
    variables, carry = models[0].init(jax.random.key(0), inputs), normal(4, 2, 4)

    def derivatives(model):
        function = partial(model.apply, mutable=False)
        along = jax.tree.map(jnp.cos, (variables, inputs))
        outputs, linear = jax.linearize(function, variables, inputs)
        by_carry = jax.jacfwd(lambda carry: model.apply(variables, inputs, initial_carry=carry))
        tangents = jax.jvp(function, (variables, inputs), along), linear(*along)
        many = jax.vmap(linear)(*jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), along))
        return outputs, tangents, many, by_carry(carry)

    close(*map(derivatives, models))


# Parameters of its own for every time step.
OWN = {"variable_axes": {"params": 0}, "variable_broadcast": False, "split_rngs": {"params": True}}


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        *((cell, {}) for cell in (nn.OptimizedLSTMCell(4), nn.LSTMCell(4), nn.MGUCell(4))),
        (nn.SimpleCell(4), OWN),
    ],
)
def test_other_cells_fall_back_to_flax(cell, options):
    variables = agree(*pair(cell, return_carry=True, **options))
    if options:
        chex.assert_shape(variables["params"]["cell"]["h"]["kernel"], (5, 4, 4))


def count_products(jaxpr, in_loop=False):
    """Count the matrix products inside of loops, those of sub-jaxprs included."""
    total = 0
    for equation in jaxpr.eqns:
        total += in_loop and equation.primitive.name == "dot_general"
        inside = in_loop or equation.primitive.name in ("scan", "while")
        subs = jax.extend.core.jaxprs_in_params(equation.params)
        total += sum(count_products(sub, inside) for sub in subs)
    return total


def test_weight_gradients_are_contractions_outside_of_the_loops(small):
    *models, variables, inputs = small
    gradients = [jax.make_jaxpr(jax.grad(partial(loss, model))) for model in models]
    ours, theirs = (count_products(gradient(variables, inputs).jaxpr) for gradient in gradients)
    assert ours == 2  # the state's own product, forward and back
    assert theirs > 4  # also the input's, and both weights'

    models = pair(nn.GRUCell(4))
    variables = models[0].init(jax.random.key(0), inputs)
    counts = [count_products(jax.make_jaxpr(m.apply)(variables, inputs).jaxpr) for m in models]
    assert counts == [2, 6]  # one product for all three gates, of the inputs and of the state


@pytest.mark.parametrize("fast", [True, False])
def test_states_that_would_overflow_after_the_end(fast):
    kernel = {"recurrent_kernel_init": lambda key, shape, dtype: 3 * jnp.eye(*shape, dtype=dtype)}
    cell = nn.SimpleCell(4, activation_fn=nn.relu, bias_init=nn.initializers.ones, **kernel)
    model = RNN(cell, mask=True, fast=fast)
    inputs = jnp.zeros((2, 200, 3))
    variables = model.init(jax.random.key(0), inputs)

    def loss(variables):
        lengths = jnp.array([2, 3])
        carry, _ = model.apply(variables, inputs, seq_lengths=lengths, return_carry=True)
        return carry.sum()

    value, gradient = jax.value_and_grad(loss)(variables)
    chex.assert_tree_all_finite((value, gradient))


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4)])
def test_interceptors_reach_the_cell(cell):
    def halve(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        return outputs / 2 if isinstance(context.module, nn.Dense) else outputs

    ours, theirs = pair(cell)
    with nn.intercept_methods(halve):
        variables = agree(ours, theirs)
        halved = ours.apply(variables, INPUTS)
    assert not np.allclose(ours.apply(variables, INPUTS), halved)


@pytest.mark.parametrize("kind", [nn.SimpleCell, nn.GRUCell])
def test_partitioned_parameters(kind):
    init = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
    agree(*pair(kind(4, kernel_init=init)))


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4)])
def test_wrong_parameters_raise_the_errors_of_flax(cell):
    ours, theirs = pair(cell)
    params = theirs.init(jax.random.key(0), INPUTS)["params"]["cell"]
    kernel = next(name for name in params if name.startswith("h"))
    missing = {name: params[name] for name in params if name != kernel}
    transposed = {**params, kernel: {**params[kernel], "kernel": jnp.zeros((4, 5))}}
    cells = {"params": {"cell": missing}}, {"params": {"cell": transposed}}
    for wrong in ({}, {"params": {}}, *cells):
        errors = []
        for model in (ours, theirs):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                model.apply(wrong, INPUTS)
            errors.append(caught.value)
        assert type(errors[0]) is type(errors[1])
        assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4), nn.OptimizedLSTMCell(4)])
@pytest.mark.parametrize("lengths", [None, jnp.zeros(0, jnp.int32)])
def test_no_sequences(cell, lengths):
    ours, theirs = RNN(cell, mask=True), nn.RNN(cell)
    variables, inputs = theirs.init(jax.random.key(0), INPUTS), jnp.zeros((0, 5, 3))
    outputs = [model.apply(variables, inputs, seq_lengths=lengths) for model in (ours, theirs)]
    close(*outputs)
    chex.assert_shape(outputs, (0, 5, 4))


@dataclass
class Scaled:
    """An activation that can be compared, and so cannot be hashed."""

    by: float

    def __call__(self, inputs):
        return self.by * jnp.tanh(inputs)


def test_unhashable_activations():
    agree(*pair(nn.SimpleCell(4, activation_fn=Scaled(0.5))))


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4), nn.OptimizedLSTMCell(4)])
def test_recurrent_dropout_is_one_mask_for_all_steps(cell):
    """Dropping units is the same as clearing their rows of the recurrent kernels."""
    rnn, mask = RNN(cell), jnp.array([0.0, 2.0, 2.0, 0.0])
    variables = rnn.init(jax.random.key(0), INPUTS)
    dropped = rnn.apply(variables, INPUTS, dropout=jnp.broadcast_to(mask, (2, 4)))
    cleared = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * mask[:, None] if is_recurrent_kernel(path, leaf) else leaf,
        variables["params"],
    )
    close(rnn.apply({"params": cleared}, INPUTS), dropped)


@pytest.mark.parametrize("mask", [False, True])
def test_one_length_for_all_sequences(mask):
    cell, lengths = nn.SimpleCell(4), jnp.array([3])
    variables = nn.RNN(cell).init(jax.random.key(0), INPUTS)
    expected, carry = (
        rnn.apply(variables, INPUTS, seq_lengths=lengths, return_carry=True)[0]
        for rnn in (nn.RNN(cell), RNN(cell, mask=mask))
    )
    close(carry, expected)


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4), nn.OptimizedLSTMCell(4)])
def test_recurrent_dropout_ends_at_the_lengths(cell):
    rnn, lengths = RNN(cell), jnp.array([3, 5])
    variables = rnn.init(jax.random.key(0), INPUTS)
    plain, dropped = (
        rnn.apply(variables, INPUTS, seq_lengths=lengths, return_carry=True, dropout=factors)[0]
        for factors in (None, jnp.ones((2, 4)))
    )
    jax.tree.map(close, plain, dropped)
