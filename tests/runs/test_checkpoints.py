"""Checkpoints: what is kept, what comes back, and what damage and malice lead to."""

import hashlib
import json
import os
import pickle
import shutil

import jax
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import Adam, Checkpoints, Experiment, History, RNNConfig, TrainerConfig, fit, load_run
from jaxrnn.files import read_json
from tests.conftest import assert_identical

KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits):
    """Six epochs, the second of which is the best; returns the work dir and what fit returned."""
    workdir = tmp_path_factory.mktemp("run")
    experiment = Experiment(
        data={},
        model=RNNConfig(hidden=8),
        optimizer=Adam(learning_rate=0.01),
        trainer=TrainerConfig(seed=7),
    )
    state = jaxrnn.create_train_state(
        KEY, experiment.model.build(10), experiment.optimizer.build(), digits.inputs
    )
    description = {
        "config": experiment.identity,
        "input_shape": [28, 28],
        "outputs": 10,
        "steps": 25,
        "members": [],
    }
    history = History()
    with Checkpoints(workdir / "checkpoints", description) as checkpoints:
        for epoch in range(1, 7):
            state, _ = jaxrnn.train_step(state, {"inputs": digits.inputs, "labels": digits.labels})
            accuracy = 0.9 if epoch == 2 else epoch / 10
            history = history.append(epoch=epoch, train_loss=1 / epoch, train_accuracy=accuracy)
            checkpoints.save(state, history, KEY)
    return workdir, state, history


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run's work dir, to damage."""
    return shutil.copytree(run[0], tmp_path / "copy")


def messages(caplog):
    """What was logged, but for what threads of other tests still say."""
    return [record.getMessage() for record in caplog.records if record.name == "jaxrnn"]


def seal(folder):
    """Make a checkpoint that was tampered with look whole."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    folder.with_name(f"{folder.name}.sha256").write_text(
        "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder.parent)}\n"
            for path in files
        )
    )


def test_last_three_and_best_are_kept(run):
    workdir, state, history = run
    names = {"2", "4", "5", "6"}
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == names | {
        f"{name}.sha256" for name in names
    }
    last, best = load_run(workdir), load_run(workdir, best=True)
    assert last.history == history
    assert_identical(last.state.params, state.params)
    assert_identical(last.state.opt_state, state.opt_state)
    assert last.key == KEY
    assert last.experiment.trainer == TrainerConfig(seed=7)
    assert last.model == jaxrnn.RNNModel(hidden=8)
    assert (int(last.state.step), len(best.history), int(best.state.step)) == (6, 2, 2)


def test_resume_is_bit_exact(run, digits):
    workdir, state, history = run
    options = {"epochs": 7, "batch_size": 100, "history": history, "key": KEY}
    stored = load_run(workdir)
    assert stored.state.tx is state.tx
    whole, _ = fit(state, digits, **options)
    resumed, _ = fit(stored.state, digits, **options)
    assert_identical(resumed.params, whole.params)


def test_restore_with_a_custom_template(state, digits, tmp_path):
    with Checkpoints(tmp_path / "any") as checkpoints:
        fitted, history = fit(state, digits, key=KEY, epochs=2, batch_size=100, hooks=[checkpoints])
    restored = Checkpoints(tmp_path / "any").restore(lambda description: state)
    assert_identical(restored[0].opt_state, fitted.opt_state)
    assert restored[1] == history
    other = jaxrnn.create_train_state(
        KEY, jaxrnn.RNNModel(hidden=17), optax.adam(1e-2), digits.inputs
    )
    with pytest.raises(ValueError, match=r"does not contain the expected arrays.*head.*kernel"):
        Checkpoints(tmp_path / "any").restore(lambda description: other)


def test_nothing_is_unpickled(run, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("unpickling")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    load_run(run[0])


@pytest.mark.program
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "add"])
def test_damaged_checkpoint_is_reported_and_skipped(copy, damage, caplog):
    folder = copy / "checkpoints"
    files = [path for path in (folder / "6").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        if damage == "flip":
            position = len(content) // 2
            flipped = bytes([content[position] ^ 4]) if content else b"!"
            path.write_bytes(content[:position] + flipped + content[position + 1 :])
        elif damage == "truncate":
            path.write_bytes(content[: len(content) // 2] if content else b"!")
        elif damage == "delete":
            path.unlink()
        else:
            path.with_name("added").write_bytes(b"")
        caplog.clear()
        assert len(load_run(copy).history) == 5
        (message,) = messages(caplog)
        name = path.with_name("added") if damage == "add" else path
        assert str(name.relative_to(folder)) in message
        assert message.endswith("falling back to epoch 5")
        path.with_name("added").unlink(missing_ok=True)
        path.write_bytes(content)
    caplog.clear()
    assert len(load_run(copy).history) == 6
    assert not messages(caplog)


def test_unsealed_checkpoint_is_ignored(copy, caplog):
    """It is being written, or whoever wrote it was killed: no reason for alarm."""
    (copy / "checkpoints" / "6.sha256").unlink()
    assert len(load_run(copy).history) == 5
    assert not messages(caplog)
    for path in (copy / "checkpoints").glob("*.sha256"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        load_run(copy)


def test_all_damaged_checkpoints_are_reported(copy):
    for path in (copy / "checkpoints").glob("*.sha256"):
        path.write_text("")
    with pytest.raises(ValueError, match=r"6 is damaged.*5 is damaged.*4 is damaged.*2 is damaged"):
        load_run(copy)
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        load_run(copy / "checkpoints")


def test_damaged_checkpoint_is_replaced(copy, digits, tmp_path):
    (copy / "checkpoints" / "5.sha256").unlink()
    (copy / "checkpoints" / "6.sha256").unlink()
    (copy / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()
    (copy / "checkpoints" / ".6.sha256-123").write_text("")
    stored = load_run(copy)
    assert len(stored.history) == 4
    with Checkpoints(copy / "checkpoints") as checkpoints:
        options = {"key": KEY, "batch_size": 100, "history": stored.history}
        fit(stored.state, digits, epochs=5, hooks=[checkpoints], **options)
    names = {path.name for path in (copy / "checkpoints").iterdir() if path.suffix != ".sha256"}
    assert names == {"2", "4", "5"}
    assert not list((copy / "checkpoints").glob(".*"))


def test_files_of_others_are_left_alone(state, tmp_path):
    """Other people's files, whatever their names; and checkpoints that nobody has read."""
    for name in ("model.bin.sha256", "SHA.sha256sums", "2024/photo", "007/photo"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    history = History().append(epoch=1, train_accuracy=0.5)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, history, KEY)
    with pytest.raises(OSError, match="epoch 2024 exists already"):
        checkpoints.wait()
    shutil.rmtree(tmp_path / "2024")
    with checkpoints:
        checkpoints.save(state, history, KEY)
    again = Checkpoints(tmp_path)
    again.save(state, history, KEY)
    with pytest.raises(OSError, match="epoch 1 exists already"):
        again.wait()
    for name in ("model.bin.sha256", "SHA.sha256sums", "007/photo"):
        assert (tmp_path / name).read_text() == "mine"


def test_numbered_directories_are_not_checkpoints(state, tmp_path):
    """Nor does looking for checkpoints among them make them so."""
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "notes").write_text("mine")
    (tmp_path / "11").write_text("mine")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(lambda description: state) is None
    checkpoints.save(state, History().append(epoch=1, train_accuracy=0.5), KEY)
    with pytest.raises(OSError, match="epoch 9 exists already"):
        checkpoints.wait()
    assert (tmp_path / "9" / "notes").read_text() == "mine"


def test_symbolic_links_are_not_followed(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy / "checkpoints")
    with pytest.raises(ValueError, match="is a symbolic link"):
        Checkpoints(tmp_path / "link")
    path = copy / "checkpoints" / "6" / "run" / "metadata"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert len(load_run(copy).history) == 5


def test_pipe_does_not_block(copy):
    path = copy / "checkpoints" / "6" / "run" / "metadata"
    path.unlink()
    os.mkfifo(path)
    assert len(load_run(copy).history) == 5
    with pytest.raises(ValueError, match="is not a file"):
        read_json(path)


def test_oversized_chunk_is_not_read(copy):
    """The bias of 8 numbers, stored as if in a chunk of a hundred million."""
    tensorstore = pytest.importorskip("tensorstore")
    folder = copy / "checkpoints" / "6"
    base = {"driver": "ocdbt", "base": f"file://{folder / 'state'}/"}
    kvstore = tensorstore.KvStore.open({**base, "path": "params.layer0.i.bias/"}).result()
    zarray = json.loads(kvstore.read(".zarray").result().value)
    kvstore.write(".zarray", json.dumps(zarray | {"chunks": [10**8]}).encode()).result()
    seal(folder)
    assert len(load_run(copy).history) == 5


def test_other_key_types(state, tmp_path):
    key = jax.random.key(3, impl="rbg")
    with Checkpoints(tmp_path / "rbg") as checkpoints:
        checkpoints.save(state, History().append(epoch=1, train_accuracy=0.5), key)
    assert Checkpoints(tmp_path / "rbg").restore(lambda description: state)[2] == key


def test_write_error_is_reported(state, tmp_path):
    (tmp_path / "file").write_text("mine")
    history = History().append(epoch=1, train_accuracy=0.5)
    checkpoints = Checkpoints(tmp_path / "file")
    checkpoints.save(state, history, KEY)
    with pytest.raises(OSError, match=r"a checkpoint could not be written in .*file"):
        checkpoints.wait()


def test_background_error_is_raised(state, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    history = History().append(epoch=1, train_accuracy=0.5)
    checkpoints = Checkpoints(tmp_path / "full")
    monkeypatch.setattr("jaxrnn.runs.checkpoints.seals.write_atomically", full)
    checkpoints.save(state, history, KEY)
    with pytest.raises(OSError, match=r"could not be written .* No space left"):
        checkpoints.wait()
    checkpoints.wait()  # said once


@pytest.mark.program
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", {"hidden": 10**9}),
        ("model", {"hidden": -1}),
        ("model", {"hidden": "150"}),
        ("model", {"layers": 10**9}),
        ("model", {"cell": "__import__('os').system('true')"}),
        ("model", {"cell": ["simple"]}),
        ("model", {"surprise": 1}),
        ("model", None),
        ("optimizer", {"learning_rate": "fast"}),
        ("optimizer", {"callback": 1}),
        ("optimizer", {"kind": "muon"}),
        ("task", {"kind": "evil"}),
        ("trainer", {"seed": -1}),
        ("outputs", 10**9),
        ("outputs", -1),
        ("input_shape", [10**6, 10**6]),
        ("input_shape", "28"),
        ("members", [10**12]),
        ("members", [-1]),
        ("input_shape", []),
        ("history", [{"epoch": 1, "../../evil": 1}]),
        ("history", 7),
        ("history", [{"epoch": 7}] * 6),
        ("history", [[{"epoch": 1}], [{"epoch": 1}, {"epoch": 2}]]),
        ("history", [{"epoch": 1}] * 300_000),
        ("history", [{"epoch": epoch, "seconds": 1} for epoch in range(1, 4)]),
        ("key_impl", "evil"),
        ("description", []),
        ("surprise", 1),
    ],
)
def test_tampered_description_is_refused(copy, place, value):
    shutil.rmtree(copy / "checkpoints" / "2")
    for epoch in "456":
        folder = copy / "checkpoints" / epoch
        path = folder / "run" / "metadata"
        run = json.loads(path.read_text())
        if place in ("history", "description", "surprise", "key_impl"):
            run[place] = value
        elif place in run["description"]["config"]:
            config = run["description"]["config"]
            config[place] = config[place] | value if isinstance(value, dict) else value
        else:
            run["description"][place] = value
        path.write_text(json.dumps(run))
        seal(folder)
    before = sorted(copy.rglob("*"))
    with pytest.raises(ValueError, match="6 is damaged"):
        load_run(copy)
    assert sorted(copy.rglob("*")) == before


def test_oversized_description_is_not_read(copy, monkeypatch):
    monkeypatch.setattr("jaxrnn.runs.checkpoints.store._MAX_BYTES", 100)
    with pytest.raises(ValueError, match="6 is damaged"):
        load_run(copy)


def test_swapped_arrays_are_refused(copy):
    """Those of one checkpoint in another's place: sealed, readable, and of another shape."""
    state = jaxrnn.create_train_state(
        KEY, jaxrnn.RNNModel(hidden=9), Adam().build(), np.zeros((1, 28, 28))
    )
    folder = copy / "checkpoints"
    with Checkpoints(copy / "other") as other:
        other.save(state, History().append(epoch=1, train_accuracy=0.5), KEY)
    shutil.rmtree(folder / "6" / "state")
    shutil.copytree(copy / "other" / "1" / "state", folder / "6" / "state")
    seal(folder / "6")
    assert len(load_run(copy).history) == 5
