"""JAX, terminals and places as people have them: a run, or one line."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrnn
from tests.conftest import SLICE, mnist_rnn

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each run starts in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(*words, capsys):
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        mnist_rnn(*words)
    err = capsys.readouterr().err
    assert (exit_.value.code, err.count("\n")) == (2, 1)
    assert sorted(Path.cwd().rglob("*")) == before
    return err


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """An epoch of the preset that uses everything, as JAX is set up by itself."""
    workdir = tmp_path_factory.mktemp("usual")
    mnist_rnn("record", "--epochs", "1", *SLICE, "--workdir", workdir)
    return jaxrnn.load_run(workdir).history


@pytest.mark.program
@pytest.mark.parametrize(
    "settings",
    [
        [(jax.enable_x64, True)],
        [
            (jax.numpy_dtype_promotion, "strict"),
            (jax.debug_nans, True),
            (jax.debug_key_reuse, True),
            (jax.transfer_guard, "log"),
        ],
    ],
)
def test_settings_of_jax(settings, usual):
    with contextlib.ExitStack() as stack:
        for setting, value in settings:
            stack.enter_context(setting(value))
        mnist_rnn("record", "--epochs", "1", *SLICE, "--workdir", "run")
    history = jaxrnn.load_run("run").history
    np.testing.assert_allclose(history["train_loss"], usual["train_loss"], rtol=1e-5)


@pytest.mark.program
def test_without_jit():
    few = ["--train", "train[:10]", "--test", "test[:5]", "--validation", "None", "--rows", "2"]
    words = ["keras", "--epochs", "1", "--hidden", "4", *few, "--batch-size", "5"]
    words += ["--devices", "1", "--workdir"]
    with jax.disable_jit():
        mnist_rnn(*words, "slow")
    mnist_rnn(*words, "usual")
    ours, theirs = (jaxrnn.load_run(name).history for name in ("slow", "usual"))
    np.testing.assert_allclose(ours["train_loss"], theirs["train_loss"], rtol=1e-5)


def test_settings_that_training_cannot_work_with(capsys):
    with jax.disable_jit():
        assert "cannot divide batches; use --devices 1" in refuse("fast", *SLICE, capsys=capsys)
    with jax.transfer_guard("disallow"):
        assert "JAX_TRANSFER_GUARD keeps data" in refuse("fast", *SLICE, capsys=capsys)


@pytest.mark.program
@pytest.mark.parametrize("platform", ["cpuu", "cuda"])
def test_platforms_that_are_not_there(platform):
    command = [sys.executable, "-m", "experiments.mnist_rnn", "fast", *SLICE, "--workdir"]
    done = subprocess.run(
        [*command, str(Path("run").absolute())],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": platform},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: JAX finds no device for JAX_PLATFORMS={platform}")
    assert not Path("run").exists()


@pytest.mark.program
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_output_lacks(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
    mnist_rnn("keras", "--epochs", "1", *SLICE, "--workdir", "run")
    sign = "×" if encoding == "latin-1" else "?"
    assert f" {sign} cpu; files in run" in written.getvalue().decode(encoding)


class Output:
    """Has no more than ``print`` needs."""

    def write(self, text):
        pass

    def flush(self):
        pass


@pytest.mark.program
@pytest.mark.parametrize("stdout", [None, Output()])
def test_unusual_standard_output(stdout, monkeypatch):
    monkeypatch.setattr("sys.stdout", stdout)
    mnist_rnn("keras", "--epochs", "1", *SLICE, "--workdir", "run")
    assert Path("run/results.json").exists()
    if stdout is None:
        sys.stdout.close()  # what it was replaced by


def test_no_color(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    escapes = []
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        with pytest.raises(SystemExit):
            mnist_rnn("--help", "all")
        escapes.append(capsys.readouterr().out.count("\x1b["))
    assert escapes[0] > escapes[1] == 0
    assert os.environ["TERM"] == "xterm"


@pytest.mark.program
def test_home_directory(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    mnist_rnn("keras", "--epochs", "1", *SLICE, "--workdir=~/run")
    assert (folder / "home" / "run" / "results.json").exists()
    mnist_rnn("evaluate", "~/run")
    assert len(jaxrnn.load_run("~/run").history) == 1
    assert not Path("~").exists()


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket/run", "file:///tmp/run"])
def test_urls(url, capsys):
    scheme = url.partition(":")[0]
    for words in (["--workdir", url], ["evaluate", url], ["--data-dir", url]):
        assert f"must be a local directory; got one of {scheme}://" in refuse(*words, capsys=capsys)


def test_names_that_are_not_utf8(capsys):
    assert "must be a name in UTF-8" in refuse("--workdir", os.fsdecode(b"x\xff"), capsys=capsys)


@pytest.mark.program
def test_links(folder, capsys):
    (folder / "dangling").symlink_to("nowhere")
    assert "dangling is a link to nowhere, which is missing" in refuse(
        "--workdir", "dangling", capsys=capsys
    )
    (folder / "there").mkdir()
    (folder / "link").symlink_to("there")
    mnist_rnn("keras", "--epochs", "1", *SLICE, "--workdir", "link")
    assert (folder / "there" / "results.json").exists()


@pytest.mark.program
def test_a_home_that_cannot_be_written(folder, monkeypatch, caplog):
    (folder / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "file" / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert len(jaxrnn.load("mnist", split="test[:5]")) == 5
    assert "cannot be made; preparing data in" in caplog.text
    assert list(folder.glob("tensorflow_datasets-*/mnist/1.0.0"))
