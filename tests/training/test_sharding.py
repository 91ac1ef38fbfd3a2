"""One batch over several devices: the same numbers, and nothing moved but one sum a step."""

import re

import jax
import numpy as np
import pytest

import jaxrnn
from jaxrnn.runs.results import describe_mesh
from jaxrnn.training.sharding import available_cores, batch_mesh, place, replicate, suitable_devices
from tests.conftest import leaves

KEY = jax.random.key(2)


def test_as_many_devices_as_divide_the_batch():
    sizes = {batch: batch_mesh(batch).size for batch in (1, 2, 3, 4, 6, 150, 149)}
    assert sizes == {1: 1, 2: 2, 3: 3, 4: 4, 6: 3, 150: 3, 149: 1}
    assert batch_mesh(150, devices=2).size == 2
    for devices in (0, 5):
        with pytest.raises(ValueError, match=f"between 1 and 4; got {devices}"):
            batch_mesh(150, devices)


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


def test_a_state_is_placed_on_the_devices_that_suit_it(state):
    kernel = np.zeros((512, 512), np.float32)
    wide = state.replace(params={"layer0": {"h": {"kernel": kernel}}}, opt_state=())
    sizes = [
        place(one, KEY, 150, devices)[0]
        for one, devices in ((state, None), (wide, None), (wide, 2))
    ]
    assert [describe_mesh(mesh) for mesh in sizes] == [
        "3 × cpu", f"1 × cpu ({available_cores()} cores)", "2 × cpu",
    ]  # fmt: skip


@pytest.mark.program
@pytest.mark.parametrize(
    ("devices", "batch_size", "with_lengths"),
    [(2, 100, True), (4, 64, False)],  # 500 = 5 × 100 = 7 × 64 + 52
)
def test_the_same_epoch_on_any_number_of_devices(state, digits, devices, batch_size, with_lengths):
    if with_lengths:
        digits = digits.replace(lengths=np.arange(500, dtype=np.int32) % 29)
    mesh = batch_mesh(batch_size, devices)
    assert mesh.size == devices
    alone, metrics = jaxrnn.train_epoch(state, digits, KEY, batch_size=batch_size)
    shared, shared_metrics = jaxrnn.train_epoch(
        *replicate((state, digits), mesh), KEY, batch_size=batch_size, mesh=mesh
    )
    assert shared.step == alone.step
    assert (shared_metrics.weight, shared_metrics.sums["accuracy"]) == (
        metrics.weight,
        metrics.sums["accuracy"],
    )
    np.testing.assert_allclose(shared_metrics.sums["loss"], metrics.sums["loss"], rtol=1e-5)
    for a, b in zip(leaves(shared.params), leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.program
@pytest.mark.parametrize("batch_size", [1, 7, 64, 500, 1000])
def test_evaluation_on_several_devices_is_exact(state, digits, batch_size):
    mesh = batch_mesh(4)
    alone = jaxrnn.evaluate(state, digits, batch_size=batch_size)
    shared = jaxrnn.evaluate(*replicate((state, digits), mesh), batch_size=batch_size, mesh=mesh)
    assert (shared.weight, shared.sums["accuracy"]) == (500, alone.sums["accuracy"])
    np.testing.assert_allclose(shared.sums["loss"], alone.sums["loss"], rtol=1e-5)


def test_one_all_reduce_a_step_and_no_gather(state, digits):
    mesh = batch_mesh(100, devices=2)
    state, digits = replicate((state, digits), mesh)
    program = jaxrnn.train_epoch.lower(state, digits, KEY, batch_size=100, mesh=mesh).compile()
    text = program.as_text()
    collectives = re.findall(
        r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text
    )
    assert set(collectives) == {"all-reduce"}

    # The gradients of 16 hidden units make one array; the loop that has it is the one over steps.
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    of_gradients = re.findall(rf"f32\[{parameters}\]\S* all-reduce", text)
    assert len(of_gradients) == 1
    # The rest are the three sums of the metrics, once an epoch.
    assert len(collectives) <= 1 + 3


def test_many_networks_need_no_communication(state, digits):
    from jaxrnn.training.loops import _train_each

    mesh = batch_mesh(4, devices=2)
    states = jax.tree.map(lambda leaf: np.stack([leaf] * 4), state)
    keys = jax.random.split(KEY, 4)
    program = _train_each.lower(states, digits, keys, batch_size=100, mesh=mesh).compile()
    assert "all-reduce" not in program.as_text()
    assert "all-gather" not in program.as_text()


@pytest.mark.program
@pytest.mark.parametrize("batch_size", [64])
def test_augmentation_is_the_same_on_any_number_of_devices(state, digits, batch_size):
    mesh = batch_mesh(batch_size, devices=2)
    options = {"batch_size": batch_size, "augment": jaxrnn.WarpConfig(shift=2.0).build()}
    alone, metrics = jaxrnn.train_epoch(state, digits, KEY, **options)
    shared, shared_metrics = jaxrnn.train_epoch(
        *replicate((state, digits), mesh), KEY, **options, mesh=mesh
    )
    np.testing.assert_allclose(shared_metrics.sums["loss"], metrics.sums["loss"], rtol=1e-5)
    for a, b in zip(leaves(shared.params), leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
