"""The command line of a page: presets, options, verbs, and what it refuses in one line."""

import dataclasses
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import experiments
import jaxrnn
from experiments.mnist_rnn import PRESETS
from jaxrnn import Adam, Experiment, ImageSequences, Muon
from jaxrnn.runs.command_line import configured
from tests.conftest import SLICE, mnist_rnn


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each run starts in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(words, capsys, run=mnist_rnn):
    """Run with bad input; returns the one line of stderr. Nothing is printed or left behind."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        run(*words)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before
    return err


def parse(*words, preset="fast", presets=PRESETS):
    return configured(presets[preset], words)[0]


def test_presets_and_options():
    assert parse() == PRESETS["fast"]
    assert parse(preset="tf1") == PRESETS["tf1"]
    config = parse("--learning-rate", "0.01", "--model.cell", "gru", "--seed=4", preset="tf1")
    assert config.optimizer == dataclasses.replace(PRESETS["tf1"].optimizer, learning_rate=0.01)
    assert config.model == dataclasses.replace(PRESETS["tf1"].model, cell="gru")
    assert config.trainer == dataclasses.replace(PRESETS["tf1"].trainer, seed=4)
    assert not parse("--no-drop-remainder", preset="tf1").trainer.drop_remainder
    assert parse("--batch_size", "10").trainer.batch_size == 10
    assert parse("--validation", "None", preset="keras").data.validation is None
    for name in ("epochs", "batch-size", "seed", "seeds", "hidden", "devices"):
        parse(f"--{name}", "3")
    parse("--workdir", "x", "--cell", "lstm")


def test_optimizer_can_be_chosen():
    assert isinstance(parse("--optimizer", "adam").optimizer, Adam)
    muon = parse("--optimizer=muon", "--muon-learning-rate", "0.5", preset="keras").optimizer
    assert muon == Muon(muon_learning_rate=0.5)
    words = ["--learning-rate", "0.5", "--optimizer", "muon"]
    assert parse(*words, preset="keras").optimizer == Muon(learning_rate=0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra:
    """A group that shares an option with the model."""

    hidden: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page(Experiment):
    """A page of its own."""

    data: ImageSequences = ImageSequences(test=None)
    extra: Extra = Extra()


def test_ambiguous_options_need_their_group(capsys):
    page = {"page": Page()}
    assert parse("--extra.hidden", "7", preset="page", presets=page).extra.hidden == 7

    def run(*words):
        jaxrnn.main(page, default="page", arguments=words)

    err = refuse(["--hidden", "7"], capsys, run)
    assert "ambiguous option --hidden; it may be --model.hidden or --extra.hidden" in err


def test_help_has_a_box_for_each_group(capsys):
    with pytest.raises(SystemExit) as exit_:
        mnist_rnn("--help")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for group in ("data", "model", "task", "augment", "trainer", "runtime", "optimizer"):
        assert len(re.findall(rf"^.{{0,3}}{group} options", text, re.MULTILINE)) == 1
    for option in ("epochs", "batch-size", "learning-rate", "hidden", "cell", "name", "seed",
                   "data-dir", "workdir", "archives", "seeds", "schedule", "shift"):  # fmt: skip
        assert f".{option} " in text
    for word in ("fast", "record", "tf1", "keras", "resume WORKDIR", "evaluate WORKDIR"):
        assert word in text
    assert ":math:" not in text
    assert ">>>" not in text


@pytest.mark.parametrize("verb", ["resume", "evaluate"])
def test_help_of_verbs(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        mnist_rnn(verb, "--help")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "--runtime.devices" in text
    assert ("--epochs" in text) == (verb == "resume")
    assert "--model" not in text


def test_description_of_the_page_is_shown(capsys):
    with pytest.raises(SystemExit):
        jaxrnn.main({"page": Page()}, default="page", description="About it.", arguments=["-h"])
    assert "About it." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kears"], "unknown preset 'kears'; did you mean keras?; there are fast, sprint, record"),
        (["resme", "run"], "unknown preset 'resme'; did you mean resume?"),
        (["--hiden", "3"], "unknown option --hiden; did you mean --hidden?"),
        (["--model.hiden", "3"], "unknown option --model.hiden; did you mean --model.hidden?"),
        (["--epoch-count", "3"], "unknown option --epoch-count; did you mean --"),
        (["--optimizer", "adm"], "unknown optimizer 'adm'; did you mean adam?; there are adam, mu"),
        (["--optimizer"], "unknown optimizer ''; there are adam, muon"),
        (["--name", "mnst"], "there is no dataset 'mnst'; did you mean mnist"),
        (["--train", "trian"], "split 'trian' of 'mnist': "),
        (["--train", "trian"], "did you mean 'train'?"),
        (["--cell", "elman"], "invalid choice 'elman' for argument '--model.cell'"),
        (["--cell", "elman"], "Expected one of ('simple', 'gru', 'lstm', 'mgu', 'mingru').\n"),
        (["--epochs", "many"], "error: --trainer.epochs: invalid literal for int() with base 10"),
        (["--epochs"], "Missing value for argument '--trainer.epochs'"),
        (["keras", "x"], "error: Unrecognized options: x\n"),
        (["--epochs", "0"], "--trainer.epochs: must be at least 1; got 0"),
        (["--epochs", "-3"], "--trainer.epochs: must be at least 1; got -3"),
        (["--batch-size", "0"], "--trainer.batch-size: must be at least 1; got 0"),
        (["--hidden", "-1"], "--model.hidden: must be at least 1; got -1"),
        (["--layers", "0"], "--model.layers: must be at least 1; got 0"),
        (["--seeds", "0"], "--trainer.seeds: must be at least 1; got 0"),
        (["--warmup", "1"], "--optimizer.warmup: must be below 1; got 1.0"),
        (["--average", "-0.1"], "--optimizer.average: must be at least 0; got -0.1"),
        (["--label-smoothing", "nan"], "--task.label-smoothing: must be a finite number; got nan"),
        (["--shift", "-1"], "--augment.shift: must be at least 0; got -1.0"),
        (["--weight-decay", "inf"], "--optimizer.weight-decay: must be a finite number; got inf"),
        (["--clip-norm", "0"], "--optimizer.clip-norm: must be greater than 0; got 0.0"),
        (["tf1", "--average", "0.9"], "--trainer.train-curve last_batch needs --optimizer.average"),
        (["--learning-rate", "0"], "--optimizer.learning-rate: must be greater than 0; got 0.0"),
        (["--learning-rate", "-1e-3"], "--optimizer.learning-rate: must be greater than 0"),
        (["--learning-rate", "nan"], "--optimizer.learning-rate: must be a finite number; got nan"),
        (["--learning-rate", "1e39"], "--optimizer.learning-rate: must be at most 3.4e38"),
        (["--devices", "0"], "--runtime.devices: must be at least 1; got 0"),
        (["--devices", "99"], "devices must be between 1 and 4; got 99"),
        (["--workdir", "x" * 300], "cannot be used: File name too long"),
        (["--seed", "-1"], "--trainer.seed: must be at least 0; got -1"),
        (["--seed", "4294967295", "--seeds", "2"], "--seed must be at most 4294967294"),
        (["--batch-size", "101", "--train", "train[:100]"],
         "--batch-size 101 is larger than the training split of 100 examples"),
        (["--archives", "nowhere"], "nowhere is not a directory"),
        (["--archives", ".", "--name", "kmnist"], "lacks train-images-idx3-ubyte.gz"),
        (["--pooling", "none"], "expects outputs (1, classes) for labels (1,); the model gives"),
        (["resume"], "give the directory of a run first: resume WORKDIR"),
        (["evaluate", "--devices", "2"], "give the directory of a run first: evaluate WORKDIR"),
        (["resume", "nowhere"], "nowhere holds no run"),
        (["evaluate", "nowhere"], "nowhere holds no run"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(words, message, capsys):
    assert message in refuse(words, capsys)


def test_several_wrong_options_get_a_line_each(capsys):
    with pytest.raises(SystemExit):
        mnist_rnn("--epochs", "0", "--hidden", "0")
    assert capsys.readouterr().err.splitlines() == [
        "error: --model.hidden: must be at least 1; got 0",
        "error: --trainer.epochs: must be at least 1; got 0",
    ]


def test_workdir_that_is_a_file(folder, capsys):
    (folder / "file").write_text("mine")
    assert "--workdir file is a file; give a directory" in refuse(["--workdir", "file"], capsys)
    assert "cannot be written" in refuse(["--workdir", "file/run"], capsys)
    assert (folder / "file").read_text() == "mine"


def test_workdir_that_cannot_be_written(capsys):
    assert "cannot be used" in refuse(["--workdir", "/proc/run", *SLICE], capsys)


def test_full_workdir(capsys, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxrnn.files.write_atomically", full)
    for workdir in (["--workdir", "runs/of/mine"], []):
        err = refuse([*workdir, *SLICE], capsys)
        assert err == "error: [Errno 28] No space left on device\n"


def test_data_dir_without_permission(folder, capsys, monkeypatch):
    def forbidden(self, **kwargs):
        raise PermissionError(13, "Permission denied", str(folder / "data"))

    builder = jaxrnn.data.readers.FAMILY["mnist"]
    with monkeypatch.context() as changed:
        changed.setattr(builder, "download_and_prepare", forbidden)
        err = refuse(["--data-dir", "data"], capsys)
    assert err.startswith("error: 'mnist' could not be prepared in data: Permission denied; ")
    err = refuse(["--data-dir", "/proc/data"], capsys)
    assert "'mnist' could not be prepared in /proc/data: " in err


def test_damaged_archive(folder, capsys):
    from jaxrnn.data.readers.mnist import BUNDLED_ARCHIVES

    (folder / "archives").mkdir()
    for path in BUNDLED_ARCHIVES.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "archives" / path.name).write_bytes(content)
    assert "idx3-ubyte.gz is not a valid gzip file" in refuse(["--archives", "archives"], capsys)


def test_version(capsys):
    mnist_rnn("--version")
    assert re.fullmatch(
        rf"jaxrnn {jaxrnn.__version__} \(JAX [\d.]+, Flax [\d.]+, Python [\d.]+\)\n",
        capsys.readouterr().out,
    )


def test_pages_are_listed(capsys):
    runpy.run_module("experiments", run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    names = [path.stem for path in Path(experiments.__file__).parent.glob("[a-z]*.py")]
    assert {line.split()[2] for line in lines} == {
        f"experiments.{name}" for name in (*names, "accelerators", "benchmark")
    }
    for line in lines:
        assert re.search(r"  [A-Z].*\.$", line), line


@pytest.mark.program
def test_output_that_nobody_reads_ends_the_run_quietly(folder):
    """As with | head -1; what was trained so far can be resumed."""
    command = [sys.executable, "-m", "experiments.mnist_rnn", "keras", *SLICE]
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--workdir", str(folder / "run")],
        cwd=Path(experiments.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("mnist_rnn/keras: ")
    process.stdout.close()
    assert process.communicate()[1] == ""
    assert process.returncode == 141
    assert len(jaxrnn.load_run(folder / "run").history) >= 1


@pytest.mark.program
def test_tensorboard_reads_the_curves(folder, monkeypatch, capsys):
    """Of a run that was resumed too; without tensorboardX, one line says what to do."""
    words = ["keras", *SLICE, "--workdir", "run", "--tensorboard"]
    mnist_rnn(*words, "--epochs", "2")
    mnist_rnn("resume", "run", "--epochs", "3")
    events = EventAccumulator("run/events").Reload()
    history = jaxrnn.load_run("run").history
    splits, metrics = ("train", "validation", "test"), ("loss", "accuracy")
    assert set(events.Tags()["scalars"]) == {f"{m}/{s}" for m in metrics for s in splits}
    for split in splits:
        scalars = events.Scalars(f"loss/{split}")
        assert [one.step for one in scalars] == [1, 2, 3]
        np.testing.assert_allclose([one.value for one in scalars], history[f"{split}_loss"])
    capsys.readouterr()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    err = refuse(["--tensorboard"], capsys)
    assert err == "error: --tensorboard needs tensorboardX; install jaxrnn's extra tensorboard\n"


def test_main_works_in_any_thread(folder, capsys):
    thread = threading.Thread(
        target=mnist_rnn, args=("keras", "--epochs", 1, *SLICE, "--workdir", "run")
    )
    thread.start()
    thread.join()
    assert "curves: run/curves.png" in capsys.readouterr().out
