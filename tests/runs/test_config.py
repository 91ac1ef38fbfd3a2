"""Experiments as JSON: what comes back, what is refused, and when two runs are the same."""

import contextlib
import copy
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxrnn
from experiments import copying, sequential_mnist
from experiments import mnist_rnn as page
from jaxrnn import (
    Adam,
    Classification,
    Experiment,
    LanguageModeling,
    Muon,
    Regression,
    RNNConfig,
    TrainerConfig,
)
from jaxrnn.runs import RuntimeConfig

ALL = [*page.PRESETS.values(), *sequential_mnist.PRESETS.values()]


@pytest.mark.parametrize("experiment", ALL)
def test_json_round_trip(experiment):
    content = json.loads(json.dumps(experiment.to_json()))
    assert type(experiment).from_json(content) == experiment
    experiment.check()


@pytest.mark.parametrize("optimizer", [Adam(warmup=0.5), Muon(muon_learning_rate=1e-3)])
@pytest.mark.parametrize("task", [Classification(), Regression(), LanguageModeling()])
def test_groups_come_back_as_their_own_class(task, optimizer):
    experiment = Experiment(data={"any": ["thing"]}, task=task, optimizer=optimizer)
    assert Experiment.from_json(json.loads(json.dumps(experiment.to_json()))) == experiment


def changed(**groups):
    content = copy.deepcopy(page.PRESETS["keras"].to_json())
    for group, change in groups.items():
        content[group] = content[group] | change if isinstance(change, dict) else change
    return content


@pytest.mark.parametrize(
    "content",
    [
        *(changed(model={"hidden": hidden}) for hidden in ("150", 150.5, True)),
        *(changed(optimizer={"learning_rate": rate}) for rate in (-1.0, float("nan"))),
        changed(model={"surprise": 1}),
        changed(optimizer={"kind": "sgd"}),
        changed(runtime={"processes": 2}),
        changed(data=[]),
        changed(model=None),
        {**changed(), "surprise": {}},
    ],
)
def test_other_content_is_refused(content):
    with pytest.raises(ValueError, match="it is damaged, or of another experiment: --") as caught:
        page.MnistRNN.from_json(content)
    assert "\n" not in str(caught.value)


def test_options_that_are_missing_have_their_defaults():
    """Groups have those of the page, options those of their group."""
    content = page.PRESETS["keras"].to_json()
    del content["trainer"], content["model"]["cell"]
    expected = dataclasses.replace(page.PRESETS["keras"], trainer=TrainerConfig())
    assert page.MnistRNN.from_json(content) == expected


def test_groups_convert_scalars_and_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    model = RNNConfig(hidden=np.int64(3), dropout=jnp.float32(0.5))
    assert model == RNNConfig(hidden=3, dropout=0.5)
    runtime = RuntimeConfig(workdir="~/run", data_dir=Path("~"))
    assert (runtime.workdir, runtime.data_dir) == (Path("/home/me/run"), Path("/home/me"))


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=3), st.none())
)  # fmt: skip
OPTIONS = [(group, name) for group, options in changed().items() for name in options]


@given(
    st.dictionaries(st.sampled_from([*OPTIONS, ("model", "surprise")]), ANYTHING, max_size=3),
    st.dictionaries(st.sampled_from([*changed(), "surprise"]), ANYTHING, max_size=1),
)
def test_fuzz_configuration_reader(options, groups):
    content = copy.deepcopy(page.PRESETS["keras"].to_json())
    for (group, name), value in options.items():
        content[group][name] = value
    content |= groups
    try:
        experiment = page.MnistRNN.from_json(content)
    except ValueError:
        return
    assert page.MnistRNN.from_json(experiment.to_json()) == experiment
    with contextlib.suppress(ValueError):  # of options that don't fit each other
        experiment.check()


def test_identity_is_everything_except_runtime():
    experiment, runtime = page.PRESETS["keras"], RuntimeConfig(workdir=Path("x"), stream=True)
    experiment.check_same(dataclasses.replace(experiment, runtime=runtime).to_json())
    names = {field.name for field in dataclasses.fields(experiment)}
    assert experiment.identity.keys() == names - {"runtime"}


def test_more_epochs_are_the_same_run_unless_a_schedule_depends_on_them():
    def with_epochs(preset, epochs):
        experiment = page.PRESETS[preset]
        trainer = dataclasses.replace(experiment.trainer, epochs=epochs)
        return dataclasses.replace(experiment, trainer=trainer)

    with_epochs("keras", 9).check_same(page.PRESETS["keras"].identity)
    for experiment, stored in (("keras", 2), ("fast", 9)):
        other = with_epochs(experiment, stored)
        with pytest.raises(ValueError, match=r"another configuration: trainer.epochs \("):
            other.check_same(page.PRESETS[experiment].identity)
        other.check_same(page.PRESETS[experiment].identity, any_epochs=True)


def test_runs_from_before_augmentation_are_read():
    experiment = sequential_mnist.PRESETS["elman"]
    stored = experiment.to_json() | {"augment": None}
    assert sequential_mnist.SequentialMNIST.from_json(stored) == experiment


@pytest.mark.parametrize("words", [["--workdir", "run"], ["resume", "run"], ["evaluate", "run"]])
def test_run_of_another_page_is_refused(words, folder, refuse):
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(copying.PRESETS["elman"].to_json()))
    reason = "it is damaged, or of another experiment: --data.delay: Unexpected keyword argument"
    assert reason in refuse(*words)


def test_public_names_are_exported():
    assert [name for name in jaxrnn.__all__ if not hasattr(jaxrnn, name)] == []
