"""TrainState: which networks can be trained, and what their calls take."""

from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxrnn import RNNModel, Split, create_train_state, evaluate, train_step, training

measure = jax.jit(training.measure, static_argnames="train")
RNG = np.random.default_rng(0)
FLOATS, LABELS = RNG.normal(size=(20, 9, 3)).astype(np.float32), np.arange(20) % 5
BATCH = {"inputs": FLOATS, "labels": LABELS}
KEY = jax.random.key(3)
OPTIMIZER = optax.sgd(0.5)


def dropped(inputs, off):
    return nn.Dense(5)(nn.Dropout(0.5, deterministic=off)(inputs.mean(1)))


def network(call):
    """A network with that call."""
    return type("Network", (nn.Module,), {"__call__": nn.compact(call)})()


CALLS = {
    "train": lambda self, inputs, lengths=None, *, train: dropped(inputs, not train),
    "deterministic": lambda self, inputs, *, deterministic=True: dropped(inputs, deterministic),
    "training": lambda self, inputs, training=False: dropped(inputs, not training),
    "is_training": lambda self, inputs, is_training: dropped(inputs, not is_training),
    "is_train": lambda self, inputs, is_train=False, lengths=None: dropped(inputs, not is_train),
    "inference": lambda self, inputs, *, inference: dropped(inputs, inference),
}
NETWORKS = {taken: network(call) for taken, call in CALLS.items()}


class DrawsNoise(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        if train:
            inputs += jax.random.normal(self.make_rng("noise"), inputs.shape)
        return dropped(inputs, not train)


class TakesKeys(nn.Module):
    @nn.compact
    def __call__(self, inputs, lengths=None, *, keys=None):
        keep = 1.0 if keys is None else jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys)
        return nn.Dense(5)(inputs.mean(1) * keep)


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        *((model, taken) for taken, model in NETWORKS.items()),
        (DrawsNoise(), "train"),
        (TakesKeys(), "keys"),
        (RNNModel(4, 5, dropout=0.5), "carry"),
    ],
)
def test_dropout_is_on_in_training_only(model, taken):
    state = create_train_state(0, model, OPTIMIZER, FLOATS)
    assert taken in state.takes
    assert state.draws

    def loss(**options):
        return float(measure(state, BATCH, **options).sums["loss"])

    assert len({loss(), loss(train=True, key=KEY), loss(train=True, key=jax.random.key(9))}) == 3
    assert loss(train=True, key=KEY) == loss(train=True, key=KEY)
    evaluated = evaluate(state, Split(**BATCH)).sums["loss"]
    assert float(evaluated) == pytest.approx(loss())
    with pytest.raises(ValueError, match="draws random numbers, as for dropout: give a key"):
        train_step(state, BATCH)


class Unusual(nn.Module):
    config: Any = None
    dropout: float = 0.0
    normalize: bool = False

    @nn.compact
    def __call__(self, inputs, lengths=None):
        features = nn.Dropout(self.dropout, deterministic=not self.dropout)(inputs.mean(1))
        if self.normalize:
            features = nn.BatchNorm(use_running_average=False)(features)
        return nn.Dense(5)(features)


@pytest.mark.parametrize("config", [[8, 3], np.zeros(4)])
def test_unhashable_models(config):
    states = [create_train_state(1, Unusual(each), OPTIMIZER, FLOATS) for each in (config, None)]
    assert not states[0].takes & {"train", "deterministic", "keys", "carry"}
    assert not states[0].draws
    unhashable, plain = (train_step(state, BATCH)[0].params for state in states)
    chex.assert_trees_all_equal(unhashable, plain)


def test_models_that_are_refused():
    state = create_train_state(1, Unusual(dropout=0.5), OPTIMIZER, FLOATS)
    with pytest.raises(ValueError, match="random numbers in evaluation; its call must take train"):
        evaluate(state, Split(**BATCH))
    with pytest.raises(ValueError, match="its call must take train or deterministic"):
        train_step(state, BATCH, KEY)
    with pytest.raises(ValueError, match="other than params: batch_stats"):
        create_train_state(1, Unusual(normalize=True), OPTIMIZER, FLOATS)


def test_classes_of_models_are_refused():
    with pytest.raises(ValueError, match="must be a linen or nnx module of Flax; got <class"):
        create_train_state(1, RNNModel, OPTIMIZER, FLOATS)


def test_lengths_need_a_network_that_takes_them():
    batch = {**BATCH, "lengths": np.full(20, 9)}
    state = create_train_state(1, NETWORKS["training"], OPTIMIZER, FLOATS)
    with pytest.raises(ValueError, match="have lengths, but the model's call takes inputs, train"):
        train_step(state, batch, KEY)
    train_step(create_train_state(1, NETWORKS["is_train"], OPTIMIZER, FLOATS), batch, KEY)


def test_one_array_of_outputs_is_expected():
    pair = network(lambda self, inputs: (nn.Dense(5)(inputs.mean(1)), inputs))
    state = create_train_state(1, pair, OPTIMIZER, FLOATS)
    with pytest.raises(ValueError, match="must return one array, the outputs; got tuple"):
        train_step(state, BATCH)


def test_shapes_of_a_state_without_a_key():
    shapes, state = (create_train_state(k, RNNModel(4, 5), OPTIMIZER, FLOATS) for k in (None, 0))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)


@pytest.mark.program
def test_partitioned_parameters_train():
    plain = nn.initializers.lecun_normal()
    boxed = nn.with_partitioning(plain, (None, "model"))
    trained, expected = (
        train_step(create_train_state(1, model, OPTIMIZER, FLOATS), BATCH)[0].params
        for model in (RNNModel(cell=nn.SimpleCell(8, kernel_init=init)) for init in (boxed, plain))
    )
    assert isinstance(trained["layer0"]["i"]["kernel"], nn.Partitioned)
    chex.assert_trees_all_equal(nn.meta.unbox(trained), expected)
