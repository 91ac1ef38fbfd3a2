"""Fixtures and helpers of the tests, and JAX with four devices and strict rank promotion."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import chex
import jax
import matplotlib
import optax
import pytest

import jaxrnn
from experiments.mnist_rnn import PRESETS
from jaxrnn.files import write_atomically

matplotlib.use("agg")
jax.config.update("jax_num_cpu_devices", 4)  # enough to test sharding
jax.devices()  # from here on that many, whichever test runs first
jax.config.update("jax_numpy_rank_promotion", "raise")
# Downloads that are meant to fail are tried again by threads that outlive their tests.
logging.getLogger("urllib3").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process write empty pictures, which would take most of their time."""
    empty = lambda path, figure: write_atomically(path, b"")  # noqa: E731
    monkeypatch.setattr("jaxrnn.runs.results.write_figure", empty)


@pytest.fixture(scope="session")
def digits() -> jaxrnn.Split:
    """The first 500 training digits, uint8."""
    return jaxrnn.load("mnist", split="train[:500]")


@pytest.fixture(scope="session")
def state(digits: jaxrnn.Split) -> jaxrnn.TrainState:
    """A small network at step 0; pure functions leave it as it is."""
    model = jaxrnn.RNNModel(hidden=16)
    return jaxrnn.create_train_state(jax.random.key(0), model, optax.adam(1e-2), digits.inputs)


SLICE = [
    *("--train", "train[:640]", "--validation", "train[640:900]", "--test", "test[:200]"),
    *("--hidden", "12"),
]
"""Options that make runs of the MNIST page take a second."""


def mnist_rnn(*words: object) -> None:
    """Run the command line of the MNIST page in this process."""
    jaxrnn.main(PRESETS, default="fast", arguments=[str(word) for word in words])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in which runs start."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run with what cannot work; returns the one line of stderr. Nothing is printed or changed."""

    def files() -> dict[Path, int]:
        return {path: path.stat(follow_symlinks=False).st_mtime_ns for path in Path().rglob("*")}

    def refuse(*words: object, run: Callable[..., None] = mnist_rnn, status: int = 2) -> str:
        before = files()
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            run(*words)
        out, err = capsys.readouterr()
        assert (exit_.value.code, err.count("\n")) == (status, 1)
        if status == 2:
            assert (out, err.startswith("error: "), files()) == ("", True, before)
        return err

    return refuse


def as_users_do() -> dict[str, str]:
    """The environment for a whole program: this one, less what makes tests compile fast."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


assert_identical = chex.assert_trees_all_equal


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of what XLA compiles inside the ``with`` block."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **metadata: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(metadata.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
