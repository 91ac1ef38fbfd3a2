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
from tests.shared import SLICE, mnist_rnn

pytestmark = pytest.mark.usefixtures("folder")
ROOT = Path(__file__).parents[2]
RECORD = ["--validation", "None"]  # which would be one more program to compile


def train(*words, preset="keras", workdir="run"):
    """Train for an epoch; returns the loss."""
    mnist_rnn(preset, "--epochs", "1", *SLICE, *words, "--workdir", workdir)
    return jaxrnn.load_run(workdir).history["train_loss"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The loss of the preset that uses everything, as JAX is set up by itself."""
    return train(*RECORD, preset="record", workdir=tmp_path_factory.mktemp("usual"))


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
        np.testing.assert_allclose(train(*RECORD, preset="record"), usual, rtol=1e-5)


@pytest.mark.program
def test_disabled_jit():
    few = ["--train", "train[:2]", "--test", "test[:2]", "--validation", "None", "--rows", "2"]
    few += ["--hidden", "2", "--batch-size", "2", "--devices", "1"]
    with jax.disable_jit():
        slow = train(*few)
    np.testing.assert_allclose(slow, train(*few, workdir="usual"), rtol=1e-5)


def test_settings_that_training_cannot_work_with(refuse):
    with jax.disable_jit():
        assert "cannot divide batches; use --devices 1" in refuse("fast", *SLICE)


@pytest.mark.program
def test_platform_that_is_not_there():
    command = [sys.executable, "-m", "experiments.mnist_rnn", "fast", *SLICE, "--workdir"]
    command.append(str(Path("run").absolute()))
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: JAX finds no device for JAX_PLATFORMS=cuda")
    assert not Path("run").exists()


@pytest.mark.program
@pytest.mark.parametrize(("encoding", "sign"), [("ascii", "?"), ("latin-1", "×")])
def test_characters_that_the_output_lacks(encoding, sign, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
    train()
    assert f" {sign} cpu; files in run" in written.getvalue().decode(encoding)


@pytest.mark.program
def test_no_standard_output(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    train()
    assert Path("run/results.json").exists()
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
def test_home_directory_and_links(folder, monkeypatch, refuse):
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home").mkdir()
    (folder / "there").mkdir()
    (folder / "home" / "run").symlink_to(folder / "there")
    train(workdir="~/run")
    assert (folder / "there" / "results.json").exists()
    mnist_rnn("evaluate", "~/run")
    assert not Path("~").exists()
    (folder / "dangling").symlink_to("nowhere")
    assert "dangling cannot be used: it is no directory" in refuse("--workdir", "dangling")


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket/run", "file:///tmp/run"])
def test_urls(url, refuse):
    scheme = url.partition(":")[0]
    for words in (["--workdir", url], ["evaluate", url], ["--data-dir", url]):
        assert f"must be a local directory; got one of {scheme}://" in refuse(*words)
