"""The command line, end to end on a small slice of the real data, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import jaxrnn
from experiments.configuration import PRESETS
from experiments.mnist_rnn import main, make_model, optimizer_options, parse
from experiments.workdir import write_json
from jaxrnn import History
from tests.conftest import as_users_do

SLICE = ["--train-split", "train[:640]", "--test-split", "test[:200]", "--hidden", "12"]
COLUMNS = (
    "epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,"
    "test_loss,test_accuracy,seconds"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each run starts in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(arguments, capsys):
    """Run with bad arguments; returns the one line of stderr."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    assert sorted(Path.cwd().rglob("*")) == before  # no half-made run dir
    return err


def test_keras_preset_end_to_end(folder):
    """As a user types it, in a process of its own."""
    options = ["--epochs", "2", "--validation-split", "train[640:900]", *SLICE]
    command = [sys.executable, "-m", "experiments.mnist_rnn", "keras", *options]
    done = subprocess.run(
        [*command, "--workdir", str(folder / "run")],
        cwd=Path(__file__).parents[2],
        env=as_users_do(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

    run = folder / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.json", "curves.png", "history.csv", "results.json", "samples.png",
    ]  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert (config["preset"], config["epochs"], config["hidden"]) == ("keras", 2, 12)

    assert (run / "history.csv").read_text().startswith(COLUMNS + "\n")
    history = History.from_csv(run / "history.csv")
    assert len(history) == 2
    assert history.measured("validation_accuracy")
    assert not history.measured("test_accuracy")

    results = json.loads((run / "results.json").read_text())
    assert results["preset"] == "keras"
    assert results["seed"] == 0
    assert results["parameters"] == 12 * (28 + 1 + 12) + 10 * (12 + 1)
    assert results["test_accuracy"] == results["best_test_accuracy"]
    assert results["best_epoch"] == 2
    assert set(results["seconds"]) == {"preparation", "compilation", "training", "evaluation"}
    assert all(seconds > 0 for seconds in results["seconds"].values())
    assert results["versions"]["jax"] == jax.__version__
    assert results["devices"][0].startswith("cpu")
    assert results["validation_accuracy"] == history["validation_accuracy"][-1]

    lines = done.stdout.splitlines()
    assert lines[1].startswith("epoch 1/2: loss ")
    assert f"accuracy:  {results['test_accuracy']}" in lines
    assert lines[-1].endswith(str(run))

    for name, size in (("curves", (2000, 600)), ("samples", (1500, 1500))):
        with Image.open(run / f"{name}.png") as picture:
            assert picture.size == size


def test_tf1_preset_end_to_end(folder, capsys):
    main(["tf1", "--epochs", "10", *SLICE])
    (run,) = (folder / "runs" / "mnist_rnn").iterdir()
    assert re.fullmatch(r"tf1-\d{8}-\d{6}", run.name)
    history = History.from_csv(run / "history.csv")
    assert history.measured("test_accuracy")
    assert not history.measured("validation_accuracy")
    correct = history["train_accuracy"] * 150  # of one batch of 150
    np.testing.assert_allclose(correct, correct.round(), atol=1e-9)

    results = json.loads((run / "results.json").read_text())
    assert results["best_test_accuracy"] == history["test_accuracy"].max()
    assert results["best_epoch"] == history["test_accuracy"].argmax() + 1
    assert results["test_accuracy"] == history["test_accuracy"][-1]

    train, test = history["train_accuracy"][-1], history["test_accuracy"][-1]
    out = capsys.readouterr().out
    assert f"\n10 Train Accuracy: {train:0.4f}, Test Accuracy: {test:0.4f}\n" in out
    assert out.count("Train Accuracy") == 1


def test_same_seed_same_curves(folder):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main(["keras", "--epochs", "1", *SLICE, "--seed", seed, "--workdir", name])
    losses = {name: History.from_csv(folder / name / "history.csv")["train_loss"] for name in "abc"}
    np.testing.assert_array_equal(losses["a"], losses["b"])
    assert losses["a"] != losses["c"]


def test_several_seeds_at_once(folder, capsys):
    arguments = ["--epochs", "2", *SLICE, "--validation-split", "train[640:900]"]
    main([*arguments, "--seeds", "3", "--devices", "2", "--seed", "4", "--workdir", "many"])
    out = capsys.readouterr().out
    results = json.loads((folder / "many" / "results.json").read_text())
    members = results["members"]
    assert [member["seed"] for member in members] == [4, 5, 6]
    accuracies = [member["test_accuracy"] for member in members]
    assert results["test_accuracy"] == pytest.approx(np.mean(accuracies))
    assert results["test_accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    low, high = results["test_accuracy_interval"]
    # Student's t for two degrees of freedom.
    half = 4.30265273 * np.std(accuracies, ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((np.mean(accuracies) - half, np.mean(accuracies) + half))
    assert "seed 5: test accuracy" in out
    assert results["parameters"] == 12 * (28 + 1 + 12) + 10 * (12 + 1)

    histories = [History.from_csv(folder / "many" / f"history-{seed}.csv") for seed in (4, 5, 6)]
    assert jaxrnn.mean_history(histories)["train_loss"].shape == (2,)
    main([*arguments, "--seed", "5", "--devices", "1", "--workdir", "one"])
    alone = History.from_csv(folder / "one" / "history.csv")
    for column in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(histories[1][column], alone[column], rtol=1e-4)

    capsys.readouterr()
    main(["evaluate", "many"])
    printed = capsys.readouterr().out.split()
    assert printed[-3:] == [str(accuracy) for accuracy in accuracies]


def test_two_runs_in_one_second_get_two_folders(folder, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda format: "20260101-000000")
    for _ in range(2):
        main(["--epochs", "1", *SLICE])
    names = {path.name for path in (folder / "runs" / "mnist_rnn").iterdir()}
    assert names == {"fast-20260101-000000", "fast-20260101-000000-2"}


def test_presets_are_their_notebooks_protocols():
    tf1, keras = PRESETS["tf1"], PRESETS["keras"]
    shared = ("batch_size", "learning_rate", "hidden", "cell", "layers", "bidirectional", "dataset")
    for preset in (tf1, keras):
        assert [getattr(preset, name) for name in shared] == [
            150, 1e-3, 150, "simple", 1, False, "mnist",
        ]  # fmt: skip
    assert (tf1.epochs, keras.epochs) == (100, 5)
    assert (tf1.epsilon, keras.epsilon) == (1e-8, 1e-7)
    assert (tf1.initializers, keras.initializers) == ("tf1", "keras")
    assert (tf1.train_split, keras.train_split) == ("train[5000:]", "train[:48000]")
    assert (tf1.validation_split, keras.validation_split) == (None, "train[48000:]")
    assert (tf1.test_every_epoch, keras.test_every_epoch) == (True, False)
    assert (tf1.drop_remainder, keras.drop_remainder) == (True, False)
    assert (tf1.train_curve, keras.train_curve) == ("last_batch", "epoch")
    assert 55_000 // tf1.batch_size == 366
    assert 48_000 / keras.batch_size == 320


def test_model_and_optimizer_are_what_the_configuration_says(digits):
    options = (
        "tf1 --hidden 7 --cell gru --layers 2 --bidirectional --initializers identity "
        "--recurrent-gain 0.5 --recurrence flax --learning-rate 0.5 --epsilon 0.25"
    )
    config = parse(options.split())
    train = digits.replace(class_names=("a", "b", "c"))
    assert make_model(config, train) == jaxrnn.RNNClassifier(
        hidden=7, classes=3, cell="gru", layers=2, bidirectional=True, initializers="identity",
        recurrent_gain=0.5, recurrence="flax",
    )  # fmt: skip
    assert make_model(PRESETS["tf1"], digits) == jaxrnn.RNNClassifier(initializers="tf1")
    for preset in ("keras", "fast", "record"):
        assert make_model(PRESETS[preset], digits) == jaxrnn.RNNClassifier()

    options = [
        "record",
        "--epochs",
        "3",
        "--batch-size",
        "150",
        "--schedule",
        "cosine",
        "--weight-decay",
        "0.1",
    ]
    assert optimizer_options(parse(options), digits) == {
        "optimizer": "muon", "learning_rate": 6e-3, "muon_learning_rate": 3e-3,
        "schedule": "cosine", "warmup": 0.1, "steps": 3 * 4, "clip_norm": 1.0,
        "weight_decay": 0.1, "average": 0.999, "epsilon": 1e-8,
    }  # fmt: skip
    assert optimizer_options(parse([*options, "--drop-remainder"]), digits)["steps"] == 3 * 3
    assert optimizer_options(PRESETS["tf1"], digits)["steps"] is None


def test_adam_is_tensorflows():
    """The rule, written out."""
    optimizer = jaxrnn.make_optimizer(learning_rate=0.5, epsilon=0.25)
    theta, m, v = 0.0, 0.0, 0.0
    params = jnp.zeros(())
    state = optimizer.init(params)
    for step, gradient in enumerate((0.3, -0.01, 2.0), start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.5 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        theta -= rate * m / (np.sqrt(v) + 0.25)
        updates, state = optimizer.update(jnp.float32(gradient), state, params)
        params = optax.apply_updates(params, updates)
        assert float(params) == pytest.approx(theta, rel=1e-4)


def test_every_option_reaches_the_run(folder, monkeypatch):
    """What run() hands to fit and load is the configuration's, not a default."""
    seen = {}
    monkeypatch.setattr(
        jaxrnn, "fit", lambda state, train, **options: seen.update(options) or 1 / 0
    )
    options = "--epochs 3 --batch-size 20 --devices 2 --drop-remainder --train-curve last_batch"
    more = "--shift 2 --elastic 0.5 --label-smoothing 0.1 --seed 9"
    with pytest.raises(ZeroDivisionError):
        main(["keras", *options.split(), *more.split(), *SLICE])
    assert seen["augment"] is jaxrnn.random_warp(shift=2.0, elastic=0.5)
    assert seen["label_smoothing"] == 0.1
    assert (seen["epochs"], seen["batch_size"], seen["devices"]) == (3, 20, 2)
    assert (seen["drop_remainder"], seen["train_curve"]) == (True, "last_batch")
    assert seen["key"] == jax.random.split(jax.random.key(9))[1]
    assert len(seen["validation"]) == 12_000


def test_the_first_word_names_the_preset():
    assert parse([]) == PRESETS["fast"]
    assert parse(["tf1"]) == PRESETS["tf1"]
    assert parse(["--epochs", "3"]).epochs == 3
    config = parse(["tf1", "--learning-rate", "0.01", "--cell", "gru", "--seed", "4"])
    assert (config.preset, config.learning_rate, config.cell, config.seed) == (
        "tf1",
        0.01,
        "gru",
        4,
    )


def test_help_tells_a_newcomer_what_there_is(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in ("epochs", "batch-size", "learning-rate", "hidden", "cell", "dataset", "seed",
                   "data-dir", "workdir", "archives", "seeds", "schedule", "shift"):  # fmt: skip
        assert f"--{option}" in text
    assert "tf1" in text
    assert "keras" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kears"], "unknown preset 'kears'; there are fast, record, tf1, keras; did you mean"),
        (["--dataset", "mnst"], "there is no dataset 'mnst'; did you mean mnist"),
        (["--cell", "elman"], "--cell must be one of simple, gru, lstm, mgu; got 'elman'"),
        (["--epochs", "0"], "--epochs must be at least 1; got 0"),
        (["--epochs", "-3"], "--epochs must be at least 1; got -3"),
        (["--batch-size", "0"], "--batch-size must be at least 1; got 0"),
        (["--hidden", "-1"], "--hidden must be at least 1; got -1"),
        (["--layers", "0"], "--layers must be at least 1; got 0"),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--warmup", "1"], "--warmup must be at least 0 and below 1; got 1.0"),
        (["--average", "-0.1"], "--average must be at least 0 and below 1; got -0.1"),
        (["--label-smoothing", "nan"], "--label-smoothing must be at least 0 and below 1; got nan"),
        (["--shift", "-1"], "--shift must be 0 or a positive number; got -1.0"),
        (["--weight-decay", "inf"], "--weight-decay must be 0 or a positive number; got inf"),
        (["--clip-norm", "0"], "--clip-norm must be a positive finite number, like 1e-3; got 0.0"),
        (["tf1", "--average", "0.9"], "--train-curve last_batch is of the weights themselves"),
        (["--learning-rate", "0"], "--learning-rate must be a positive finite number"),
        (["--learning-rate", "-1e-3"], "--learning-rate must be a positive finite number"),
        (["--learning-rate", "nan"], "--learning-rate must be a positive finite number"),
        (["--learning-rate", "inf"], "--learning-rate must be a positive finite number"),
        (["--learning-rate", "1e39"], "--learning-rate must be a positive finite number"),
        (["--devices", "0"], "--devices must be at least 1; got 0"),
        (["--devices", "99"], "devices must be between 1 and the 4 there are; got 99"),
        (["--workdir", "x" * 300], "cannot be used: File name too long"),
        (["--seed", "-1"], "--seed must be between 0 and 4294967295; got -1"),
        (["--train-split", "trian"], "split 'trian' of 'mnist'"),
        (["--batch-size", "101", "--train-split", "train[:100]"],
         "--batch-size 101 is larger than the training split 'train[:100]' of 100 examples"),
        (["--archives", "nowhere"], "nowhere is no folder"),
        (["--archives", ".", "--dataset", "kmnist"], "lacks train-images-idx3-ubyte.gz"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(arguments, message, capsys):
    err = refuse(arguments, capsys)
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--epochs", "many"], ["--epoch-count", "3"], ["keras", "x"]]
)
def test_bad_syntax(arguments, capsys):
    assert "Traceback" not in refuse(arguments, capsys)


def test_workdir_that_is_a_file(folder, capsys):
    (folder / "file").write_text("mine")
    assert "--workdir file is a file; name a folder" in refuse(["--workdir", "file"], capsys)
    assert "cannot be written" in refuse(["--workdir", "file/run"], capsys)
    assert (folder / "file").read_text() == "mine"


def test_workdir_that_cannot_be_written(capsys):
    assert "cannot be used" in refuse(["--workdir", "/proc/run", *SLICE], capsys)


def test_workdir_that_turns_out_full(folder, capsys, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiments.workdir.write_atomically", full)
    for workdir in (["--workdir", "runs/of/mine"], []):
        err = refuse([*workdir, *SLICE], capsys)
        assert err == "error: [Errno 28] No space left on device\n"


def test_data_dir_without_permission(folder, capsys, monkeypatch):
    def forbidden(self, **kwargs):
        raise PermissionError(13, "Permission denied", str(folder / "data"))

    builder = jaxrnn.data.builders.FAMILY["mnist"]
    monkeypatch.setattr(builder, "download_and_prepare", forbidden)
    err = refuse(["--data-dir", "data"], capsys)
    assert err == "error: 'mnist' could not be prepared in data: Permission denied\n"
    monkeypatch.undo()
    err = refuse(["--data-dir", "/proc/data"], capsys)
    assert "'mnist' could not be prepared in /proc/data: " in err


def test_altered_archive(folder, capsys):
    from jaxrnn.data.builders.mnist import BUNDLED_ARCHIVES

    (folder / "archives").mkdir()
    for path in BUNDLED_ARCHIVES.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "archives" / path.name).write_bytes(content)
    err = refuse(["--archives", "archives"], capsys)
    assert "train-images-idx3-ubyte.gz" in err


def test_json_has_no_nan(folder):
    content = {"loss": float("inf"), "members": [{"loss": float("nan"), "epoch": 3}], "seed": 0}
    write_json(folder / "results.json", content)
    assert json.loads((folder / "results.json").read_text()) == {
        "loss": None, "members": [{"loss": None, "epoch": 3}], "seed": 0,
    }  # fmt: skip
