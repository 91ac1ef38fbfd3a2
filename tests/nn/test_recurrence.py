"""jaxrnn.RNN against flax.linen.RNN: values, gradients and transformations."""

from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.nn.recurrence import RNN

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "sigmoid": nn.sigmoid, "gelu": nn.gelu}


def close(ours, theirs, atol=2e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-4, atol=atol)


def pair(cell, **options):
    return RNN(cell, **options), nn.RNN(cell, **options)


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def loss(model, variables, inputs, carry, **call):
    """Every output with a weight of its own, so that no gradient hides behind another."""
    outputs = model.apply(variables, inputs, initial_carry=carry, **call)
    return sum(
        (jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)).astype(leaf.dtype) * leaf).sum()
        for leaf in jax.tree.leaves(outputs)
    )


@pytest.mark.program
@settings(deadline=None, max_examples=5)
@given(
    time=st.integers(1, 6),
    batch=st.lists(st.integers(1, 3), min_size=1, max_size=1),
    features=st.integers(1, 3),
    hidden=st.integers(1, 4),
    gru=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    residual=st.booleans(),
    with_carry=st.booleans(),
    with_lengths=st.booleans(),
    unroll=st.integers(1, 4),
    options=st.fixed_dictionaries(
        {name: st.booleans() for name in ("return_carry", "time_major", "reverse", "keep_order")}
    ),
    seed=st.integers(0, 99),
)
def test_values_and_gradients(
    time,
    batch,
    features,
    hidden,
    gru,
    activation,
    residual,
    with_carry,
    with_lengths,
    unroll,
    options,
    seed,
):
    own: dict = {"activation_fn": ACTIVATIONS[activation], "bias_init": nn.initializers.normal()}
    cell = nn.GRUCell(hidden, **own) if gru else nn.SimpleCell(hidden, **own, residual=residual)
    ours, theirs = pair(cell, unroll=unroll)
    inputs = normal(seed, *((time, *batch) if options["time_major"] else (*batch, time)), features)
    carry = normal(seed + 1, *batch, hidden) if with_carry else None
    lengths = None
    if with_lengths:
        lengths = jax.random.randint(jax.random.key(seed + 2), tuple(batch), 1, time + 1)
    call = {**options, "seq_lengths": lengths}

    def everything(model):  # compiled as one program, which is much of what a test costs
        variables = model.init(jax.random.key(seed), inputs, initial_carry=carry, **call)
        outputs = model.apply(variables, inputs, initial_carry=carry, **call)
        wanted = (0, 1, 2) if with_carry else (0, 1)
        gradients = jax.grad(partial(loss, model, **call), wanted)(variables, inputs, carry)
        return variables, outputs, gradients

    close(
        jax.jit(everything, static_argnums=0)(ours), jax.jit(everything, static_argnums=0)(theirs)
    )


@pytest.mark.program
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4)])
def test_other_numbers_of_batch_axes(batch, cell):
    ours, theirs = pair(cell)
    inputs = normal(0, *batch, 5, 3)
    variables = theirs.init(jax.random.key(0), inputs)
    close(ours.init(jax.random.key(0), inputs), variables, 0)
    close(ours.apply(variables, inputs), theirs.apply(variables, inputs))
    gradients = [
        jax.grad(partial(loss, model))(variables, inputs, None) for model in (ours, theirs)
    ]
    close(*gradients)


@pytest.mark.program
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("inputs_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", [nn.SimpleCell, nn.GRUCell])
def test_dtypes(dtype, param_dtype, inputs_dtype, kind):
    cell = kind(  # LAPACK, behind the orthogonal initializer, has no bfloat16
        4, dtype=dtype, param_dtype=param_dtype, recurrent_kernel_init=nn.initializers.normal()
    )
    inputs = normal(0, 2, 5, 3, dtype=inputs_dtype)
    results = []
    for model in pair(cell):
        try:
            variables = model.init(jax.random.key(0), inputs)
            results.append((variables, model.apply(variables, inputs)))
        except TypeError as error:  # a carry that changes its type in the first step
            results.append(str(error).splitlines()[0])
    ours, theirs = results
    if isinstance(theirs, str):
        assert ours == theirs
    else:
        close(ours, theirs, atol=2e-2 if theirs[1].dtype == jnp.bfloat16 else 2e-5)


@pytest.fixture(scope="module")
def small():
    inputs = normal(3, 4, 5, 3)
    ours, theirs = pair(nn.SimpleCell(4), return_carry=True)
    return ours, theirs, ours.init(jax.random.key(0), inputs), inputs


def test_under_jit_and_vmap(small):
    ours, theirs, variables, inputs = small
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), variables)

    def gradients(model):
        gradient = jax.grad(lambda v, x: loss(model, v, x, None), (0, 1))
        return jax.jit(jax.vmap(gradient, in_axes=(0, None)))(many, inputs)

    close(gradients(ours), gradients(theirs))


@pytest.mark.program
def test_gradients_of_gradients(small):
    ours, theirs, variables, inputs = small

    def penalty(variables, model):
        gradient = jax.grad(lambda v: loss(model, v, inputs, None))(variables)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))

    close(*(jax.grad(penalty)(variables, model) for model in (ours, theirs)), atol=1e-2)


def test_forward_mode_is_refused_clearly(small):
    ours, _, variables, inputs = small
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: ours.apply(variables, x), (inputs,), (inputs,))


def test_forward_mode_passes_other_activations():
    ours, theirs = pair(nn.SimpleCell(4, activation_fn=nn.gelu))
    inputs = normal(3, 4, 5, 3)
    variables = ours.init(jax.random.key(0), inputs)
    close(*(jax.jvp(lambda x, m=model: m.apply(variables, x), (inputs,), (inputs,))
            for model in (ours, theirs)))  # fmt: skip


@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell(4), nn.LSTMCell(4), nn.MGUCell(4)])
def test_other_cells_fall_through(cell):
    inputs = normal(0, 2, 5, 3)
    ours, theirs = pair(cell, return_carry=True)
    variables = theirs.init(jax.random.key(0), inputs)
    close(ours.init(jax.random.key(0), inputs), variables, 0)
    close(ours.apply(variables, inputs), theirs.apply(variables, inputs), 0)


def test_variable_options_fall_through():
    options = {"variable_axes": {"params": 0}, "variable_broadcast": False,
               "split_rngs": {"params": True}}  # fmt: skip
    inputs = normal(0, 2, 5, 3)
    ours, theirs = pair(nn.SimpleCell(4), **options)  # parameters of its own for every step
    variables = ours.init(jax.random.key(0), inputs)
    close(variables, theirs.init(jax.random.key(0), inputs), 0)
    assert variables["params"]["cell"]["h"]["kernel"].shape == (5, 4, 4)


def count(jaxpr, name, inside_loops=False, in_loop=False):
    """Equations called ``name`` in a jaxpr, sub-jaxprs included; within loops or outside them."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == name and in_loop == inside_loops
        loop = in_loop or equation.primitive.name in ("scan", "while")
        for sub in jax.extend.core.jaxprs_in_params(equation.params):
            total += count(sub, name, inside_loops, loop)
    return total


def test_weight_gradients_are_contractions_outside_of_the_loops(small):
    ours, theirs, variables, inputs = small

    def products(model):
        gradient = jax.grad(lambda v: model.apply(v, inputs)[0].sum())
        jaxpr = jax.make_jaxpr(gradient)(variables).jaxpr
        return count(jaxpr, "dot_general"), count(jaxpr, "dot_general", inside_loops=True)

    # Inside: the state's own product, forward and back. Flax adds the input's and both weights'.
    assert products(ours)[1] == 2
    assert products(theirs)[1] > 4

    # One product for the inputs of all three gates of a GRU, and one for their recurrences.
    gru = pair(nn.GRUCell(4))
    variables = gru[0].init(jax.random.key(0), inputs)
    ours, theirs = (
        count(
            jax.make_jaxpr(model.apply)(variables, inputs).jaxpr, "dot_general", inside_loops=True
        )
        for model in gru
    )
    assert (ours, theirs) == (1, 6)


LENGTHS = jnp.array([5, 1, 3, 0])


@pytest.mark.program
@pytest.mark.parametrize(
    "cell",
    [
        nn.SimpleCell(4),
        nn.SimpleCell(4, residual=True),
        nn.SimpleCell(4, activation_fn=nn.gelu),
        nn.GRUCell(4),
        nn.OptimizedLSTMCell(4),
        nn.MGUCell(4),
    ],
)
def test_masked_steps_do_not_matter(cell):
    """NaN after the end changes no bit of what is valid, which is as in Flax."""
    inputs = normal(3, 4, 5, 3)
    valid = jnp.arange(5)[None] < LENGTHS[:, None]
    damaged = jnp.where(valid[..., None], inputs, jnp.nan)
    options: dict = {"reverse": True, "keep_order": True}
    masked, theirs = RNN(cell, mask=True, **options), nn.RNN(cell, **options)
    variables = theirs.init(jax.random.key(0), inputs)

    @partial(jax.jit, static_argnums=0)
    def run(model, inputs):
        def loss(variables):
            carry, outputs = model.apply(variables, inputs, seq_lengths=LENGTHS, return_carry=True)
            outputs = jnp.where(valid[..., None], outputs, 0)
            # A sequence without steps has no last carry in Flax.
            carry = jax.tree.map(lambda leaf: leaf[:3], carry)
            total = sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves((carry, outputs)))
            return total, (carry, outputs)

        return jax.grad(loss, has_aux=True)(variables)

    clean, theirs_clean = run(masked, inputs), run(theirs, inputs)
    close(clean, theirs_clean)
    for a, b in zip(*map(jax.tree.leaves, (clean, run(masked, damaged))), strict=True):
        np.testing.assert_array_equal(a, b)


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
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4)])
def test_interceptors_reach_the_cell(cell):
    def halve(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        return outputs / 2 if isinstance(context.module, nn.Dense) else outputs

    inputs = normal(3, 2, 5, 3)
    ours, theirs = pair(cell)
    variables = ours.init(jax.random.key(0), inputs)
    with nn.intercept_methods(halve):
        close(ours.apply(variables, inputs), theirs.apply(variables, inputs))
    plain = ours.apply(variables, inputs)
    with nn.intercept_methods(halve):
        assert not np.allclose(ours.apply(variables, inputs), plain)


@pytest.mark.parametrize("kind", [nn.SimpleCell, nn.GRUCell])
def test_partitioned_parameters(kind):
    cell = kind(4, kernel_init=nn.with_partitioning(nn.initializers.normal(), (None, "model")))
    inputs = normal(3, 2, 5, 3)
    ours, theirs = pair(cell)
    variables = ours.init(jax.random.key(0), inputs)
    assert jax.tree.structure(variables) == jax.tree.structure(
        theirs.init(jax.random.key(0), inputs)
    )
    close(ours.apply(variables, inputs), theirs.apply(variables, inputs))


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4)])
def test_wrong_parameters_raise_the_errors_of_flax(cell):
    inputs = normal(3, 2, 5, 3)
    ours, theirs = pair(cell)
    params = theirs.init(jax.random.key(0), inputs)["params"]["cell"]
    kernel = next(name for name in params if name.startswith("h"))
    missing = {name: params[name] for name in params if name != kernel}
    transposed = {**params, kernel: {**params[kernel], "kernel": jnp.zeros((4, 5))}}
    for wrong in (
        {},
        {"params": {}},
        {"params": {"cell": missing}},
        {"params": {"cell": transposed}},
    ):
        errors = []
        for model in (ours, theirs):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                model.apply(wrong, inputs)
            errors.append(caught.value)
        assert type(errors[0]) is type(errors[1])
        assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize("cell", [nn.SimpleCell(4), nn.GRUCell(4), nn.OptimizedLSTMCell(4)])
@pytest.mark.parametrize("lengths", [None, jnp.zeros(0, jnp.int32)])
def test_no_sequences(cell, lengths):
    ours, theirs = RNN(cell, mask=True), nn.RNN(cell)
    variables = theirs.init(jax.random.key(0), normal(3, 2, 5, 3))
    outputs = [
        model.apply(variables, jnp.zeros((0, 5, 3)), seq_lengths=lengths)
        for model in (ours, theirs)
    ]
    close(*outputs)
    assert outputs[0].shape == (0, 5, 4)


class Scaled:
    """An activation that can be compared, and so cannot be hashed."""

    def __init__(self, by):
        self.by = by

    def __eq__(self, other):
        return isinstance(other, Scaled) and self.by == other.by

    def __call__(self, inputs):
        return self.by * jnp.tanh(inputs)


def test_activations_that_cannot_be_hashed():
    inputs = normal(3, 2, 5, 3)
    ours, theirs = pair(nn.SimpleCell(4, activation_fn=Scaled(0.5)))
    variables = ours.init(jax.random.key(0), inputs)
    close(ours.apply(variables, inputs), theirs.apply(variables, inputs))


@pytest.mark.program
def test_hessian():
    inputs = normal(3, 2, 3, 2)
    ours, theirs = pair(nn.SimpleCell(2))
    variables = ours.init(jax.random.key(0), inputs)
    close(
        *(jax.hessian(lambda v, m=m: m.apply(v, inputs).sum())(variables) for m in (ours, theirs)),
        atol=1e-4,
    )
