"""The command line of a page: presets, options, verbs, and what it refuses in one line."""

import contextlib
import dataclasses
import re
import runpy
import subprocess
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import experiments
import jaxrnn
from experiments.mnist_rnn import PRESETS
from jaxrnn import Adam, Experiment, ImageSequences, LanguageModeling, Muon, WarpConfig
from jaxrnn.runs.command_line import configured
from jaxrnn.runs.options import USAGES
from jaxrnn.runs.results import writing_events
from jaxrnn.runs.verbs import page_name
from tests.shared import SLICE, mnist_rnn

ROOT = Path(experiments.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("folder")


def parse(*words, page=PRESETS["fast"]):
    return configured(page, words)[0]


def test_presets_and_options():
    assert parse() == PRESETS["fast"]
    tf1 = PRESETS["tf1"]
    config = parse("--learning-rate", "0.01", "--model.cell", "gru", "--seed=4", page=tf1)
    changes = {
        "optimizer": {"learning_rate": 0.01},
        "model": {"cell": "gru"},
        "trainer": {"seed": 4},
    }
    groups = {name: dataclasses.replace(getattr(tf1, name), **c) for name, c in changes.items()}
    assert config == dataclasses.replace(tf1, **groups)
    assert not parse("--no-drop-remainder", page=tf1).trainer.drop_remainder
    assert not parse("--trainer.no_drop_remainder", page=tf1).trainer.drop_remainder
    assert parse("--batch_size", "10").trainer.batch_size == 10
    assert parse("--validation", "None", page=PRESETS["keras"]).data.validation is None
    for name in ("epochs", "batch-size", "seed", "hidden", "devices"):
        parse(f"--{name}", "3")
    parse("--workdir", "x", "--cell", "lstm")


def test_groups_can_be_chosen():
    keras = PRESETS["keras"]
    assert parse("--optimizer", "adam", page=keras) == keras
    assert parse("--optimizer", "adam").optimizer == Adam()
    muon = parse("--optimizer=muon", "--muon-learning-rate", "0.5", page=keras).optimizer
    assert muon == Muon(muon_learning_rate=0.5)
    words = ["--learning-rate", "0.5", "--optimizer", "muon"]
    assert parse(*words, page=keras).optimizer == Muon(learning_rate=0.5)
    words = ["--warp", "warpconfig", "--warp.shift", "2", "--task", "languagemodeling"]
    page = parse(*words, page=Page())
    assert (page.warp, page.task) == (WarpConfig(shift=2.0), LanguageModeling())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra:
    """A group that shares an option with the model."""

    hidden: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page(Experiment):
    """A page of its own."""

    data: ImageSequences = ImageSequences(test=None)
    extra: Extra = Extra()
    warp: WarpConfig | None = None


def run_page(*words, page=Page()):
    jaxrnn.main({"page": page}, default="page", description="About it.", arguments=words)


def test_ambiguous_options_need_their_group(refuse):
    assert parse("--extra.hidden", "7", page=Page()).extra.hidden == 7
    err = refuse("--hidden", "7", run=run_page)
    assert "ambiguous option --hidden; it may be --model.hidden or --extra.hidden" in err


def show(capsys, *words, run=mnist_rnn):
    with contextlib.suppress(SystemExit):
        run(*words)
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_short_help(capsys):
    text = show(capsys, "keras", "--help")
    assert text.count("\n") <= 42
    assert text.startswith("usage: python -m experiments.mnist_rnn [PRESET] [OPTIONS]\n")
    assert re.search(r"^  tf1 +train train\[5000:\], validation None, initializers tf1", text, re.M)
    for line in ("--epochs 5 ", "--optimizer adam ", "--hidden 150 ", "--seeds 1 ", "keras\n",
                 "resume WORKDIR", "evaluate WORKDIR", "sweep [PRESET]"):  # fmt: skip
        assert f"\n  {line}" in text
    text = show(capsys, "-h", run=run_page)
    assert "About it." in text
    assert "--model.hidden 150 " in text  # another group has hidden, too


def test_whole_help_has_a_box_for_each_group(capsys):
    text = show(capsys, "--help", "all")
    for group in ("data", "model", "task", "augment", "trainer", "runtime", "optimizer", "sweep"):
        assert len(re.findall(rf"^.{{0,3}}{group} options", text, re.MULTILINE)) == 1
    for option in ("epochs", "learning-rate", "name", "data-dir", "seeds", "vary", "shift"):
        assert f".{option} " in text
    for hidden in (":math:", ">>>", "kind"):
        assert hidden not in text


SLOW = ["tensorflow_datasets", "orbax", "grain", "matplotlib", "scipy", "safetensors", "flax.nnx"]
LOADED = f"""
import sys
import jaxrnn
from experiments.mnist_rnn import PRESETS

for words in ["--version"], ["--help"]:
    jaxrnn.main(PRESETS, default="fast", arguments=words)
jaxrnn.load("mnist", split="train[:5]")  # which is prepared
print(*{{*{SLOW}}} & {{*sys.modules}})
"""


@pytest.mark.program
def test_what_is_slow_to_import_waits_until_it_is_needed(digits):
    command = [sys.executable, "-c", LOADED]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == ""


@pytest.mark.program
def test_completion_in_bash(folder, capsys):
    text = show(capsys, "--tyro-write-completion", "bash", "completion")
    assert text.endswith(f"add this line to ~/.bashrc: source {folder / 'completion'}\n")
    completed = {
        "": [*PRESETS, *USAGES],
        "ke": ["keras"],
        "--hid": ["--hidden"],
        "keras --model.hid": ["--model.hidden"],
        "keras --optimizer m": ["muon"],
        "keras --muon-l": ["--muon-learning-rate"],
        "sweep tf1 --va": ["--validation", "--vary"],
        "sweep tf": ["tf1"],
        "resume runs/mine --epo": ["--epochs"],
        "resume runs/mine --workd": [],
        "predict runs/mine --fi": [],
        "resume ": [],  # a file name
    }
    script = ["source completion"]
    for words in completed:
        *before, last = f"mnist_rnn {words}".split(" ")
        typed = " ".join(map(repr, [*before, last]))
        script.append(f"COMP_WORDS=({typed}) COMP_CWORD={len(before)}")
        script.append('_mnist_rnn; echo "${COMPREPLY[@]}"')
    words = ["bash", "-c", "\n".join([*script, "declare -f mnist_rnn"])]
    ran = subprocess.run(words, check=True, capture_output=True, text=True)
    *shown, _, _, call, _ = ran.stdout.splitlines()
    assert [line.split() for line in shown] == [*completed.values()]
    assert call.strip() == 'python -m experiments.mnist_rnn "$@"'


def test_help_of_verbs(capsys):
    for verb in ("resume", "evaluate"):
        text = show(capsys, verb, "--help")
        assert "--runtime.devices" in text
        assert ("--epochs" in text) == (verb == "resume")
        assert "--model" not in text


@pytest.fixture
def sweeps(monkeypatch):
    """What the command line asks :func:`jaxrnn.sweep` for, which trains nothing here."""
    asked = []
    record = lambda experiment, **options: asked.append((experiment, options))  # noqa: E731
    monkeypatch.setattr("jaxrnn.runs.command_line.sweep", record)
    return asked


def test_sweep_has_typed_values_by_full_name(sweeps):
    vary = ["--vary", "learning_rate=1e-3,3e-3", "model.hidden=64", "--vary", "patience=None,5"]
    mnist_rnn("sweep", "keras", "--seeds", "3", *vary, "layer-norm=True,False", "--epochs", "2")
    mnist_rnn("--seeds", "4", "--jobs", "2", "--pictures")
    values = {
        "optimizer.learning_rate": [1e-3, 3e-3],
        "model.hidden": [64],
        "trainer.patience": [None, 5],
        "model.layer_norm": [True, False],
    }
    keras = {"seeds": 3, "vary": values, "jobs": 1, "pictures": False, "name": "mnist_rnn/keras"}
    several = {"seeds": 4, "vary": {}, "jobs": 2, "pictures": True, "name": "mnist_rnn/fast"}
    keras_page = parse("--epochs", "2", page=PRESETS["keras"])
    assert sweeps == [(keras_page, keras), (PRESETS["fast"], several)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hidden"], "--vary expects OPTION=VALUE,VALUE,…; got 'hidden'"),
        (["hiden=3"], "unknown option --hiden; did you mean --hidden?"),
        (["hidden=64,many"], "--model.hidden: invalid literal for int() with base 10: 'many'"),
        (["layer_norm=yes"], "--model.layer-norm: must be one of True, False; got 'yes'"),
        (["optimizer=adam,muon"], "unknown optimizer 'adam,muon'"),
    ],
)
def test_bad_values_of_a_sweep_get_one_line(words, message, sweeps, refuse):
    assert message in refuse("sweep", "--vary", *words)
    assert not sweeps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kears"], "unknown preset 'kears'; did you mean keras?; there are fast, sprint, record"),
        (["resme", "run"], "unknown preset 'resme'; did you mean resume?"),
        (["--optimizer", "adm"], "unknown optimizer 'adm'; did you mean adam?; there are adam, mu"),
        (["keras", "--muon-learning-rate", "1"],
         "--optimizer.muon-learning-rate is an option of another --optimizer"),
        (["--train", "trian"], "split 'trian' of 'mnist': "),
        (["--cell", "lstn"], "--model.cell: must be one of simple, gru, lstm, mgu, mingru, lru; "
         "got 'lstn'; did you mean lstm?"),
        (["--patience", "x"], "--trainer.patience: no type matching {None}|INT could be instantia"),
        (["--chrono", "9"], "error: --chrono needs a --cell with gates: gru, lstm, mgu or mingru"),
        (["--epochs", "many"], "error: --trainer.epochs: invalid literal for int() with base 10"),
        (["--epochs"], "--trainer.epochs: the value is missing"),
        (["keras", "x"], "error: unexpected argument: x\n"),
        (["--epochs", "0"], "--trainer.epochs: must be at least 1; got 0"),
        (["--warmup", "1"], "--optimizer.warmup: must be less than 1; got 1.0"),
        (["tf1", "--average", "0.9"], "--trainer.train-curve last_batch needs --optimizer.average"),
        (["--learning-rate", "1e39"], "--optimizer.learning-rate: must be less than or equal to"),
        (["--learning-rate", "-1e-3"], "--optimizer.learning-rate: must be greater than 0"),
        (["--truncate", "7", "--bidirectional"], "--truncate and --remat need a unidirectional"),
        (["--sample", "3"], "--runtime.sample needs a language model"),
        (["--devices", "99"], "devices must be between 1 and 4; got 99"),
        (["--workdir", "x" * 300], "cannot be used: File name too long"),
        (["--batch-size", "101", "--train", "train[:100]"],
         "batch size must be between 1 and the 100 examples of the split; got 101"),
        (["--pooling", "none"], "expects outputs (1, classes) for labels (1,); the model gives"),
        (["--process", "0"], "--coordinator, --processes and --process need --distributed"),
        (["--distributed", "--processes", "2"], "--processes and --process together, or none"),
        (["--distributed", "--coordinator", "a:1", "--processes", "2", "--process", "2"],
         "--process must be between 0 and 1; got 2"),
        (["--distributed", "--coordinator", "nowhere", "--processes", "2", "--process", "0"],
         "--coordinator must be host:port; got 'nowhere'"),
        (["--heartbeat", "0"], "--runtime.heartbeat: must be at least 1; got 0"),
        (["--workers", "-1"], "--runtime.workers: must be at least 0; got -1"),
        (["--steps-per-epoch", "3"], "--steps-per-epoch is an option of streams; use --stream"),
        (["--stream", "--steps-per-epoch", "0"], "--trainer.steps-per-epoch: must be at least 1"),
        (["--stream", "--steps-per-epoch", "5", "--batch-size", "64"],
         "60000 examples leave a batch of 32; use drop_remainder"),
        (["resume"], "give the directory of a run first: resume WORKDIR"),
        (["resume", "nowhere"], "nowhere holds no run"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(words, message, refuse):
    assert message in refuse(*words)


def test_several_wrong_options_get_a_line_each(capsys):
    with pytest.raises(SystemExit):
        mnist_rnn("tf1", "--epochs", "0", "--hidden", "0", "--average", "0.5")
    assert capsys.readouterr().err.splitlines() == [
        "error: --model.hidden: must be at least 1; got 0",
        "error: --trainer.epochs: must be at least 1; got 0",
        "error: --trainer.train-curve last_batch needs --optimizer.average 0",
    ]


def test_unusable_workdirs(folder, refuse):
    (folder / "file").write_text("mine")
    assert "--workdir file cannot be used: it is no directory" in refuse("--workdir", "file")
    for workdir in ("file/run", "/proc/run"):
        assert "cannot be used" in refuse("--workdir", workdir, *SLICE)
    assert (folder / "file").read_text() == "mine"


def test_full_workdir(refuse, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxrnn.files.write_atomically", full)
    for workdir in (["--workdir", "runs/of/mine"], []):
        assert refuse(*workdir, *SLICE) == "error: [Errno 28] No space left on device\n"


def test_interrupted_preparation_leaves_nothing_behind(folder, monkeypatch):
    def interrupt(data):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageSequences, "build", interrupt)
    for words in ([], ["--workdir", "runs/of/mine"]):
        with pytest.raises(KeyboardInterrupt):
            mnist_rnn(*words)
    assert list(folder.iterdir()) == []


def test_damaged_archive(folder, refuse):
    from jaxrnn.data.readers.builders import Mnist

    (folder / "archives").mkdir()
    for path in Mnist.ARCHIVES.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "archives" / path.name).write_bytes(content)
    assert "idx3-ubyte.gz is not a valid gzip file" in refuse("--archives", "archives")


def test_version(capsys):
    versions = rf"jaxrnn {jaxrnn.__version__} \(JAX [\d.]+, Flax [\d.]+, Python [\d.]+\)\n"
    assert re.fullmatch(versions, show(capsys, "--version"))


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
        cwd=ROOT,
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
def test_tensorboard_reads_the_curves(monkeypatch, refuse):
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
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        np.testing.assert_allclose([scalar.value for scalar in scalars], history[f"{split}_loss"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs tensorboardX; install jaxrnn's extra tensorboard" in refuse("--tensorboard")


def test_curves_of_splits_whose_names_begin_alike(tmp_path):
    history = jaxrnn.History().append(epoch=1, train_loss=3, test_loss=2, test_hard_loss=1)
    with writing_events(tmp_path, ["test", "test_hard"]) as write:
        write(SimpleNamespace(history=history))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss/train", "loss/test", "loss/test_hard"}


def test_command_is_that_of_the_program(monkeypatch):
    """Even if it only imports the experiment, from a module that is no program."""
    program = ModuleType("__main__")
    program.__file__ = "train.py"
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.setattr(sys, "argv", ["my pages/train.py"])
    assert PRESETS["keras"].command == "python -m experiments.mnist_rnn"
    monkeypatch.setattr(Experiment, "is_program", True)
    assert PRESETS["keras"].command == "python 'my pages/train.py'"
    assert page_name(PRESETS["keras"]) == "train"
    program.__spec__ = ModuleSpec("digits.__main__", None)
    assert PRESETS["keras"].command == "python -m digits"


def test_main_works_in_any_thread(capsys):
    words = ("keras", "--epochs", 1, *SLICE, "--workdir", "run")
    thread = threading.Thread(target=mnist_rnn, args=words)
    thread.start()
    thread.join()
    assert "curves: run/curves.png" in capsys.readouterr().out
