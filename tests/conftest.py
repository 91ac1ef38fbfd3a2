"""How tests are set up and distributed; what they share is in ``tests.shared``."""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

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

collect_ignore = ["browse_page.py"]  # which needs Playwright

# A machine may be busy with other work: no example is too slow.
hypothesis.settings.register_profile(
    "usual", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("usual")
hypothesis.settings.register_profile("long", max_examples=100_000)


def pytest_configure(config: pytest.Config) -> None:
    """Import JAX and the fixtures, except where tests are only handed out to workers."""
    if "PYTEST_XDIST_WORKER" in os.environ or not config.option.numprocesses:
        config.pluginmanager.import_plugin("tests.shared")


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(SHARED, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is still at one when the other has nothing left."""
    longest = "test_base_environment", "test_several_processes", "test_notebooks", "test_types"
    items.sort(key=lambda item: not any(name in item.nodeid for name in longest))
