"""Set-up shared by all tests: import order of the backends, few threads, helper modules on the path.

The suite runs once per backend: `KERAS_BACKEND=jax|tensorflow|torch pytest tests`.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the tolerances are those of float32 on CPU
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# Many tests train the same small model: JAX compiles each distinct step once a run, not once a test.
_COMPILED = tempfile.TemporaryDirectory(prefix="nepa_keras_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

TESTS = Path(__file__).resolve().parent
for folder in (TESTS, TESTS / "data", TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

if importlib.util.find_spec("torch") is not None:
    import torch  # before TensorFlow: the other order crashes in a process that holds both

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

import keras  # noqa: E402
import pytest  # noqa: E402


def pytest_addoption(parser):
    parser.addoption(
        "--mutations",
        type=int,
        default=10_000,
        help="variants of a valid file that each test of damaged files tries",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=3,
        help="deaths that the runs under tests/faults have to survive; 200 are the full set",
    )


@pytest.fixture
def zero_initial_weights(monkeypatch):
    """New models begin at zero, as drawing 300 million numbers takes seconds."""
    import nepa_keras

    zeros = keras.initializers.Zeros()
    monkeypatch.setattr(
        nepa_keras.layers.NormalInitializer,
        "__call__",
        lambda self, shape, dtype=None: zeros(shape, dtype),
    )


@pytest.fixture
def mutation_count(request) -> int:
    return request.config.getoption("--mutations")


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from the same seed and in float32."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1337)
    yield
    keras.config.set_dtype_policy("float32")
