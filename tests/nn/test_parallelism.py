"""jaxrnn.RNN under JAX's own parallelism, as flax.linen.RNN: the work is divided by batch."""

import re
from functools import cache

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
SPECS = P(), P("data"), P("data")  # of parameters, inputs and carry


def create_mesh(kind):
    return jax.make_mesh((4,), ("data",), axis_types=(kind,))


@cache
def example(cell):
    """A gradient, by parameters and inputs; its arguments; and its value on one device."""
    model = RNN(cell, return_carry=True)

    def loss(variables, inputs, carry):
        last, states = model.apply(variables, inputs, initial_carry=carry)
        return jnp.sin(states).sum() + jnp.cos(jnp.abs(last)).sum()

    variables = model.init(jax.random.key(0), INPUTS)
    carry = cell.initialize_carry(jax.random.key(0), (8, 3)) + 1
    gradient, arguments = jax.grad(loss, (0, 1)), (variables, INPUTS, carry)
    return gradient, arguments, jax.jit(gradient)(*arguments)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("cell", CELLS)
def test_jit_divides_a_sharded_batch(cell, kind):
    gradient, arguments, expected = example(cell)
    mesh = create_mesh(kind)
    with jax.set_mesh(mesh):
        shardings = [NamedSharding(mesh, spec) for spec in SPECS]
        placed = [*map(jax.device_put, arguments, shardings)]
        program = jax.jit(gradient).lower(*placed).compile()
        actual = program(*placed)
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=1e-4, atol=1e-5)
    assert actual[1].sharding.spec[0] == "data"
    exchanges = set(re.findall(r"\b(all-reduce|all-gather|all-to-all)\b", program.as_text()))
    assert exchanges == {"all-reduce"}


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_inside_shard_map(cell):
    gradient, arguments, expected = example(cell)
    mesh = create_mesh(AxisType.Auto)
    divided = jax.shard_map(gradient, mesh=mesh, in_specs=SPECS, out_specs=SPECS[:2])
    actual = jax.jit(divided)(*arguments)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)
