"""jaxrnn.RNN under JAX's own parallelism, as flax.linen.RNN: the work is divided by batch."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrnn import RNN
from jaxrnn.nn import LRUCell, MinGRUCell

INPUTS = jax.random.normal(jax.random.key(0), (8, 5, 3))
CELLS = [nn.SimpleCell(4), nn.SimpleCell(4, activation_fn=nn.gelu), nn.GRUCell(4)]
CELLS += [MinGRUCell(4), LRUCell(4)]


def create_mesh(kind):
    return jax.make_mesh((4,), ("data",), axis_types=(kind,))


def create(cell):
    model = RNN(cell, return_carry=True)
    return model, model.init(jax.random.key(0), INPUTS)


def loss(model, variables, inputs, carry):
    last, states = model.apply(variables, inputs, initial_carry=carry)
    return jnp.sin(states).sum() + jnp.cos(jnp.abs(last)).sum()


def place(mesh, *trees):
    return [jax.device_put(tree, NamedSharding(mesh, P("data"))) for tree in trees]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("cell", CELLS)
def test_jit_divides_a_sharded_batch(cell, kind):
    model, variables = create(cell)
    mesh, carry = create_mesh(kind), cell.initialize_carry(jax.random.key(0), (8, 3)) + 1
    gradient = jax.grad(partial(loss, model), (0, 1))
    expected = jax.jit(gradient)(variables, INPUTS, carry)
    with jax.set_mesh(mesh):
        replicated = jax.device_put(variables, NamedSharding(mesh, P()))
        inputs = place(mesh, INPUTS, carry)
        program = jax.jit(gradient).lower(replicated, *inputs).compile()
        actual = program(replicated, *inputs)
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=1e-4, atol=1e-5)
    assert actual[1].sharding.spec[0] == "data"
    exchanges = set(re.findall(r"\b(all-reduce|all-gather|all-to-all)\b", program.as_text()))
    assert exchanges == {"all-reduce"}


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_inside_shard_map(cell):
    model, variables = create(cell)
    carry = cell.initialize_carry(jax.random.key(0), (8, 3)) + 1
    expected = jax.jit(jax.grad(partial(loss, model)))(variables, INPUTS, carry)

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=create_mesh(AxisType.Auto),
        out_specs=P(),
        in_specs=(P(), P("data"), P("data")),
    )
    def actual(variables, inputs, carry):
        return jax.grad(partial(loss, model))(variables, inputs, carry)

    chex.assert_trees_all_close(actual(variables, INPUTS, carry), expected, rtol=1e-4, atol=1e-5)
