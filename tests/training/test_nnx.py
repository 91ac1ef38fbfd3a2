"""NNX modules in training: the numbers of linen, dropout by the key, and the module back."""

from dataclasses import dataclass, replace

import chex
import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jaxrnn
from jaxrnn import Experiment, TrainerConfig, create_train_state, fit, train_step
from jaxrnn.data import Adding
from jaxrnn.groups import Group
from jaxrnn.runs import RuntimeConfig
from jaxrnn.training import merged
from tests.shared import compilations

KEY = jax.random.key(3)
OPTIMIZER = optax.adam(0.01)
TRAINER = TrainerConfig(epochs=2, batch_size=20)


class Network(nnx.Module):
    def __init__(self, features, outputs, rngs, dropout=0.0):
        self.rnn = nnx.RNN(nnx.SimpleCell(features, 8, rngs=rngs), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(8, outputs, rngs=rngs)

    def __call__(self, inputs):
        return self.head(self.dropout(self.rnn(inputs)[:, -1]))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(10, name="head")(nn.RNN(nn.SimpleCell(8, name="cell"))(inputs)[:, -1])


def test_same_curve_as_linen(digits):
    """From the same parameters, to float rounding."""
    state = create_train_state(0, Network(28, 10, nnx.Rngs(0)), OPTIMIZER, digits.inputs)
    cell = state.params["rnn"]["cell"]
    expected = create_train_state(0, Linen(), OPTIMIZER, digits.inputs)
    params = {
        "cell": {"i": cell["dense_i"], "h": {"kernel": cell["dense_h"]["kernel"]}},
        "head": state.params["head"],
    }
    chex.assert_trees_all_equal_structs(params, expected.params)
    curves = [
        fit(each, digits, TRAINER, key=KEY, evals={"test": digits})[1]
        for each in (state, expected.replace(params=params))
    ]
    for column in ("train_loss", "test_loss", "test_accuracy"):
        np.testing.assert_allclose(curves[0][column], curves[1][column], rtol=1e-4)


def test_merged_module_predicts_what_its_state_does(digits):
    module = Network(28, 10, nnx.Rngs(0), dropout=0.5)
    before = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    state = create_train_state(0, module, OPTIMIZER, digits.inputs)
    chex.assert_trees_all_equal(state.params, before)
    batch = {"inputs": digits.inputs[:50], "labels": digits.labels[:50]}
    trained, _ = train_step(state, batch, KEY)
    restored = merged(trained)
    restored.eval()
    outputs = jaxrnn.predict(trained, digits)[:5]
    np.testing.assert_allclose(outputs, restored(digits.inputs[:5] / np.float32(255)), atol=1e-6)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(module, nnx.Param)), before)


def test_dropout_is_a_function_of_the_key(digits):
    states = [
        create_train_state(0, Network(28, 10, nnx.Rngs(seed), 0.5), OPTIMIZER, digits.inputs)
        for seed in (0, 1)
    ]
    batch = {"inputs": digits.inputs[:50], "labels": digits.labels[:50]}
    losses = [float(train_step(states[0], batch, key)[1].sums["loss"]) for key in (KEY, KEY, 7)]
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(ValueError, match="draws random numbers, as for dropout: give a key"):
        train_step(states[0], batch)
    with compilations() as names:  # another seed is the same program
        train_step(states[1], batch, KEY)
    assert names == []


class Noisy(Network):
    """A network that draws random numbers itself, without the mode of ``nnx.Dropout``."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        del self.dropout
        self.rngs = arguments[-1]

    def __call__(self, inputs):
        noise = jax.random.normal(self.rngs.noise(), (len(inputs), 8))
        return self.head(self.rnn(inputs)[:, -1] + noise)


def test_noise_of_a_module_differs_between_steps_and_keys(digits):
    state = create_train_state(0, Noisy(28, 10, nnx.Rngs(0)), OPTIMIZER, digits.inputs)
    batch = {"inputs": digits.inputs[:50], "labels": digits.labels[:50]}
    runs = [(state, KEY), (state, KEY), (state, 7), (state.replace(step=state.step + 1), KEY)]
    first, same, *others = (float(train_step(of, batch, key)[1].sums["loss"]) for of, key in runs)
    assert first == same
    assert len({first, *others}) == 3


def test_modules_that_are_refused(digits):
    class Normalized(Network):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.norm = nnx.BatchNorm(28, rngs=arguments[-1])

    with pytest.raises(ValueError, match=r"other than nnx.Param: BatchStat"):
        create_train_state(0, Normalized(28, 10, nnx.Rngs(0)), OPTIMIZER, digits.inputs)
    with pytest.raises(ValueError, match=r"merged requires the state of an nnx.Module"):
        merged(create_train_state(0, Linen(), OPTIMIZER, digits.inputs))


@dataclass(frozen=True)
class Config(Group):
    def build(self, outputs, rngs):
        return Network(2, outputs, rngs)


@dataclass(frozen=True, kw_only=True)
class Page(Experiment):
    data: Adding = Adding(length=5, examples=60, held_out=20)
    model: Config = Config()
    task: jaxrnn.Regression = jaxrnn.Regression()
    trainer: TrainerConfig = TrainerConfig(epochs=2, batch_size=20)


@pytest.mark.program
def test_page_with_an_nnx_module(tmp_path):
    first, second = (
        Page(
            trainer=replace(TRAINER, seed=seed), runtime=RuntimeConfig(workdir=tmp_path / f"{seed}")
        )
        for seed in (0, 1)
    )
    results = [jaxrnn.run(experiment) for experiment in (first, second)]
    assert results[0]["train_loss"] != results[1]["train_loss"]
    run = jaxrnn.load_run(tmp_path / "0", Page)
    data = first.data.build()
    assert run.predict(data.evals["test"].inputs).shape == (20, 1)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(run.model, nnx.Param)), run.state.params)
    assert isinstance(run.model, Network)
    assert (tmp_path / "0" / "parameters.txt").read_text().startswith("head/bias  (1,)\n")
