"""Checkpoints: what is kept, what comes back, and what damage leads to."""

import functools
import json
import pickle
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor

import chex
import jax
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Checkpoints, Experiment, History, RNNConfig, TrainerConfig, load_run
from jaxrnn.files import read_json
from jaxrnn.runs.checkpoints import _digest

KEY = jax.random.key(7)
EXPERIMENT = Experiment(data={}, model=RNNConfig(hidden=4), trainer=TrainerConfig(seed=7))
DESCRIPTION = {
    "config": EXPERIMENT.identity,
    "input_shape": [28, 28],
    "outputs": 10,
    "steps": 25,
    "class_names": [],
    "channels": 1,
    "pixels": True,
}


@functools.cache
def state_after(epoch, optimizer=None, hidden=4):
    """A state that differs from epoch to epoch."""
    model = RNNConfig(hidden=hidden).build(10)
    optimizer = optimizer or EXPERIMENT.optimizer.build(25)
    state = jaxrnn.create_train_state(KEY, model, optimizer, np.zeros((1, 28, 28)))
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else leaf + epoch, state)


def history_of(epochs, best=2):
    history = History()
    for epoch in range(1, epochs + 1):
        history = history.append(epoch=epoch, train_accuracy=0.9 if epoch == best else epoch / 100)
    return history


def save(folder, *epochs, key=KEY, optimizer=None):
    with Checkpoints(folder, DESCRIPTION) as checkpoints:
        for epoch in epochs:
            checkpoints.save(state_after(epoch, optimizer), history_of(epoch), key)
    return checkpoints


def restore(folder, *, best=False, **template):
    return Checkpoints(folder).restore(lambda description: state_after(0, **template), best=best)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a run of six epochs, the second of which is the best."""
    workdir = tmp_path_factory.mktemp("run")
    save(workdir / "checkpoints", 1, 2, 3, 4, 5, 6)
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run's work directory, to damage."""
    return shutil.copytree(run, tmp_path / "copy")


def reseal(folder, **changes):
    """Change what a checkpoint describes, with the SHA-256 that belongs to it."""
    content = read_json(folder / "run.json") | changes
    del content["sha256"]
    digest = _digest(content, folder / "arrays")
    (folder / "run.json").write_text(json.dumps({**content, "sha256": digest}))


def test_last_three_and_best_are_kept(run):
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"2", "4", "5", "6"}
    last, best = load_run(run), load_run(run, best=True)
    assert last.history == history_of(6)
    assert best.history == history_of(2)
    chex.assert_trees_all_equal(last.state, state_after(6))
    chex.assert_trees_all_equal(best.state, state_after(2))
    assert last.key == KEY
    assert last.experiment == EXPERIMENT
    assert last.model == jaxrnn.RNNModel(hidden=4)
    shown = "182 parameters, epoch 2 of 5, train accuracy 0.9000"
    assert repr(best) == f"Experiment in {run}: {shown}"


def test_prng_keys_are_restored(tmp_path):
    """The root key of any type, and those in the state of the optimizer."""
    optimizer, key = optax.add_noise(0.1, 0.5, 3), jax.random.key(3, impl="rbg")
    save(tmp_path, 1, key=key, optimizer=optimizer)
    state, _, restored = restore(tmp_path, optimizer=optimizer)
    assert restored == key
    assert state.opt_state.rng_key == state_after(1, optimizer).opt_state.rng_key


def test_other_template_is_refused(run):
    with pytest.raises(ValueError, match=r"6 cannot be restored: .*expected arrays.*head.*kernel"):
        restore(run / "checkpoints", hidden=5)


def test_nothing_is_unpickled(run, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.delattr(pickle, name)
    assert restore(run / "checkpoints")


def damages(content):
    """Ways in which a file can be damaged; None if it is deleted."""
    for position in {0, len(content) // 2, len(content) - 1}:
        yield content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
    yield content[:-1]
    yield None


def test_damage_of_any_file_is_reported(tmp_path, caplog):
    save(tmp_path, 1, 2)
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        for damaged in damages(content):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            caplog.clear()
            state, history, _ = restore(tmp_path)
            chex.assert_trees_all_equal(state, state_after(1))
            assert history == history_of(1)
            (message,) = caplog.messages
            assert message.startswith(f"checkpoint {tmp_path / '2'} is damaged: ")
            assert message.endswith("; falling back to epoch 1")
        path.write_bytes(content)


def test_all_damaged_checkpoints_are_reported(copy):
    for path in (copy / "checkpoints").glob("*/run.json"):
        path.write_text("{}")
    before = sorted(copy.rglob("*"))
    with pytest.raises(ValueError, match=r"6 is damaged.*5 is damaged.*4 is damaged.*2 is damaged"):
        load_run(copy)
    assert sorted(copy.rglob("*")) == before
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        load_run(copy / "checkpoints")


def test_damaged_best_falls_back_to_the_last(copy, caplog):
    (copy / "checkpoints" / "2" / "run.json").write_text("{}")
    assert len(load_run(copy, best=True).history) == 6
    assert caplog.text.count("falling back to epoch 6") == 1


def test_damaged_checkpoint_is_replaced(copy):
    folder = copy / "checkpoints"
    (folder / "5" / "run.json").unlink()
    (folder / "6" / "run.json").write_text("{}")
    shutil.copytree(folder / "4", folder / ".partial")  # its process was killed
    with Checkpoints(folder, DESCRIPTION) as checkpoints:
        _, history, _ = checkpoints.restore(lambda description: state_after(0))
        assert len(history) == 4
        checkpoints.save(state_after(5), history_of(5), KEY)
    assert {path.name for path in folder.iterdir()} == {"2", "4", "5"}
    chex.assert_trees_all_equal(restore(folder)[0], state_after(5))


def test_unrelated_files_are_left_alone(tmp_path):
    """Whatever they are called; and checkpoints that nobody has read."""
    for name in ("2024/photo", "007/photo", "11"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert restore(tmp_path) is None
    save(tmp_path, 1, 2, 3)
    with pytest.raises(OSError, match="epoch 2 exists already"):
        save(tmp_path, 2)
    with pytest.raises(OSError, match="could not save"):
        save(tmp_path, 11)
    assert {path.name for path in tmp_path.iterdir()} >= {"1", "2", "3"}
    for name in ("2024/photo", "007/photo", "11"):
        assert (tmp_path / name).read_text() == "mine"


def test_full_disk_is_reported_and_loses_nothing(tmp_path, capfd):
    checkpoints = save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, hard))
    try:
        with pytest.raises(OSError, match=rf"could not save to {tmp_path}: .*File too large"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""
    assert checkpoints.epochs == [1]
    save(tmp_path, 2)
    chex.assert_trees_all_equal(restore(tmp_path)[0], state_after(2))


def test_deleted_directory_is_not_created_again(tmp_path):
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(state_after(1), history_of(1), KEY)
        checkpoints.wait()
        shutil.rmtree(tmp_path / "run")
        checkpoints.save(state_after(2), history_of(2), KEY)
        with pytest.raises(OSError, match=r"could not save to .*No such file or directory"):
            checkpoints.wait()
        checkpoints.wait()  # reported once
    assert not (tmp_path / "run").exists()


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    checkpoints = Checkpoints(tmp_path / "file")
    checkpoints.save(state_after(1), history_of(1), KEY)
    with pytest.raises(OSError, match=r"could not save to .*file"):
        checkpoints.wait()


# Orbax may close its event loop in a thread that has ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_reading_during_training(tmp_path, caplog):
    save(tmp_path, 1, 2, 3)
    training = Checkpoints(tmp_path, DESCRIPTION)
    states = {epoch: state_after(epoch) for epoch in range(1, 16)}

    def train():
        for epoch in range(4, 16):
            training.save(states[epoch], history_of(epoch, best=epoch // 5 * 5), KEY)
        training.wait()

    epochs = {True: [], False: []}
    with ThreadPoolExecutor() as pool:
        trained = pool.submit(train)
        while not trained.done():
            for best, seen in epochs.items():
                state, history, _ = Checkpoints(tmp_path).restore(lambda _: states[1], best=best)
                chex.assert_trees_all_equal(state, states[len(history)])
                seen.append(len(history))
        trained.result()
    for seen in epochs.values():
        assert seen == sorted(seen)
        assert len(set(seen)) > 1
    assert not caplog.messages


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", {"hidden": 10**9}),
        ("model", {"cell": "__import__('os').system('true')"}),
        ("optimizer", {"kind": "muon"}),
        ("outputs", 5),
        ("description", []),
        ("history", [{"epoch": 1, "../../evil": 1}]),
        ("keys", {"key": "evil"}),
    ],
)
def test_tampered_description_is_refused(copy, place, value):
    description = json.loads(json.dumps(DESCRIPTION))
    if place in ("description", "history", "keys"):
        changes = {place: value}
    elif place in description["config"]:
        description["config"][place] |= value
        changes = {"description": description}
    else:
        changes = {"description": {**description, place: value}}
    reseal(copy / "checkpoints" / "6", **changes)
    with pytest.raises(ValueError, match="6 cannot be restored"):
        load_run(copy)
