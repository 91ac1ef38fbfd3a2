"""One batch over several devices: the same numbers, and nothing moved but one sum a step."""

import math
import re

import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn.runs import prepare
from jaxrnn.training import sharding, train_block
from jaxrnn.training.sharding import batch_mesh, suitable_devices


def test_as_many_devices_as_divide_the_batch():
    sizes = {batch: batch_mesh(batch).size for batch in (1, 2, 3, 4, 6, 150, 149)}
    assert sizes == {1: 1, 2: 2, 3: 3, 4: 4, 6: 3, 150: 3, 149: 1}
    for devices in (0, 5):
        with pytest.raises(ValueError, match=f"between 1 and 4; got {devices}"):
            batch_mesh(150, devices)


@pytest.mark.parametrize(("cores", "described"), [(1, "1 core"), (2, "2 cores")])
def test_devices_are_described(monkeypatch, cores, described):
    monkeypatch.setattr(prepare, "available_cores", lambda: cores)
    assert prepare.describe_mesh(batch_mesh(150, 1)) == f"1 × cpu ({described})"
    assert prepare.describe_mesh(batch_mesh(150)) == "3 × cpu"


@pytest.mark.parametrize(
    ("hidden", "cell", "suitable"),
    [(511, "simple", None), (512, "simple", 1), (512, "gru", 1), (512, "mingru", None)],
)
def test_wide_networks_take_one_device(hidden, cell, suitable):
    model = jaxrnn.RNNModel(hidden=hidden, cell=cell)
    optimizer = jaxrnn.Adam().build()
    state = jaxrnn.create_train_state(None, model, optimizer, np.zeros((1, 28, 28)))
    assert suitable_devices(state.params) == suitable
    assert suitable_devices(state.params, 3) == 3
    assert suitable_devices({"embedding": {"kernel": np.zeros((2048, 2048))}}) is None


def _size(shape):
    return math.prod(int(length) for length in shape.split(",") if length)


@pytest.mark.parametrize("divided", [False, True])
def test_one_all_reduce_a_step_and_no_gather(state, digits, divided):
    mesh = batch_mesh(100, devices=2)
    state = sharding.replicate(state, mesh)
    examples = {"inputs": digits.inputs, "labels": digits.labels} if divided else digits
    examples = sharding.put_examples(examples, mesh, sharded=divided)
    rows = np.arange(250 if divided else 500, dtype=np.int32).reshape(5, -1)
    arguments = state, examples, rows, jax.random.key(2), mesh
    text = train_block.lower(*arguments).compile().as_text()
    collectives = re.findall(
        r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text
    )
    assert set(collectives) == {"all-reduce"}

    # XLA combines the sums of all gradients in one all-reduce, in the loop over steps.
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    operands = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    sizes = [sum(map(_size, re.findall(r"f32\[([\d,]*)\]", shapes))) for shapes in operands]
    assert sum(size >= numbers for size in sizes) == 1
    # The rest are the three sums of the metrics, once a block.
    assert len(collectives) <= 1 + 3
