"""What every test shares: strict JAX, one prepared copy of MNIST, no writing outside of tmp."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Before JAX and tfds are imported, which read them once. Tests hold on a machine with an
# accelerator too, and they and the doctests prepare data where nobody else's is.
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers, and what they start, share it
    os.environ["JAXRNN_TESTS"] = tempfile.mkdtemp(prefix="jaxrnn-tests-")
SHARED = os.environ["JAXRNN_TESTS"]
os.environ["TFDS_DATA_DIR"] = f"{SHARED}/data"
# Compiled programs are kept for the next time; workers and the programs that they start share them.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(".pytest_cache", "compiled").absolute())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of what tests cost, and the compiler's optimizations are not what they check.
# Whole programs, which `as_users_do` starts, run without this.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)

import chex  # noqa: E402
import hypothesis  # noqa: E402
import jax  # noqa: E402
import matplotlib  # noqa: E402
import optax  # noqa: E402
import pytest  # noqa: E402

import jaxrnn  # noqa: E402
from experiments.mnist_rnn import PRESETS  # noqa: E402
from jaxrnn.files import write_atomically  # noqa: E402

collect_ignore = ["browse_page.py"]  # which needs Playwright
matplotlib.use("agg")
jax.config.update("jax_num_cpu_devices", 4)  # enough to test sharding
jax.devices()  # from here on that many, whichever test runs first
jax.config.update("jax_numpy_rank_promotion", "raise")

# A machine may be busy with other work: no example is too slow.
hypothesis.settings.register_profile(
    "usual", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("usual")
hypothesis.settings.register_profile("long", max_examples=100_000)


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(SHARED, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is still at one when the other has nothing left."""
    longest = "test_base_environment", "test_several_processes", "test_notebooks"
    items.sort(key=lambda item: not any(name in item.nodeid for name in longest))


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
