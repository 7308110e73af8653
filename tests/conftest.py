"""Set-up shared by all tests, and what each test costs.

The suite runs once per backend: `KERAS_BACKEND=jax|tensorflow|torch pytest tests`.
"""

import gc
import importlib.util
import os
import resource
import sys
import tempfile

from tests.helpers import ROOT  # before Keras, as it sets threads and devices

# Many tests train the same small model: JAX compiles each distinct step once a run, not once a process.
_COMPILED = tempfile.TemporaryDirectory(prefix="nepa_keras_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Of processes that tests start; of this one `pytest_runtest_setup` decides.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

if importlib.util.find_spec("torch") is not None:
    import torch  # noqa: F401  before TensorFlow: the other order crashes in a process that holds both

import keras  # noqa: E402
import pytest  # noqa: E402

import nepa_keras  # noqa: E402


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


# The longest files come first, so that no worker is left with one of them at the end (`tests/run.py`).
LONGEST_FIRST = (
    "test_keras_habits.py",
    "test_segmenter.py",
    "faults/test_resume.py",
    "experiments/test_finetune.py",
    "distribution/test_many_devices.py",
    "interop/test_presets.py",
    "experiments/test_segment.py",
    "parity/test_backends_agree.py",
    "experiments/test_pretrain.py",
    "experiments/test_study_parts.py",
    "test_examples.py",
    "experiments/test_convert.py",
    "training/test_run.py",
    "test_inputs.py",
)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(config, items):
    def belongs(item):
        only_on = item.get_closest_marker("only_on")
        return only_on is None or keras.backend.backend() in only_on.args

    # Deselected, as a test that is skipped fails the suite.
    config.hook.pytest_deselected(items=[item for item in items if not belongs(item)])
    items[:] = filter(belongs, items)
    for item in items:
        first_on = [marker.args for marker in item.iter_markers("first_on")]
        if any(keras.backend.backend() not in backends for backends in first_on):
            item.add_marker("full")

    def place(item):
        name = str(item.path.relative_to(ROOT / "tests"))
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


_JIT_BY_DEFAULT = nepa_keras.backends.default_jit_compile
if keras.backend.backend() == "jax":
    from nepa_keras.backends.jax import trainer as jax_trainer

    # XLA's older emitters need half the time to compile a train step.
    _OPTIONS_OF_USERS = jax_trainer.CPU_COMPILER_OPTIONS
    _QUICK_OPTIONS = {**_OPTIONS_OF_USERS, "xla_cpu_use_fusion_emitters": False}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compiles as users do in tests marked `xla` and in the quickest way in all others.

    A hook and no fixture, as fixtures of a module are made before those of a function.
    """
    about_xla = item.get_closest_marker("xla") is not None
    if keras.backend.backend() == "tensorflow":
        nepa_keras.backends.default_jit_compile = _JIT_BY_DEFAULT if about_xla else lambda: False
    elif keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", not about_xla)
        jax_trainer.CPU_COMPILER_OPTIONS = _OPTIONS_OF_USERS if about_xla else _QUICK_OPTIONS


@pytest.fixture(autouse=True, scope="module")
def _free_models():
    """Frees what a module made: models, which refer to themselves, and what JAX compiled for them."""
    yield
    gc.collect()
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()  # else the programs of all modules are gigabytes at the end


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from the same seed and in float32."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1337)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def zero_initial_weights(monkeypatch):
    """New models begin at zero, as drawing 300 million numbers takes seconds."""
    zeros = keras.initializers.Zeros()
    monkeypatch.setattr(
        nepa_keras.layers.NormalInitializer,
        "__call__",
        lambda self, shape, dtype=None: zeros(shape, dtype),
    )


@pytest.fixture
def mutation_count(request) -> int:
    return request.config.getoption("--mutations")


# What a test costs goes into the JUnit report, where `tests/run.py` reads it.

_interpreters = 0  # started by this process


def _count_interpreters(event, arguments):
    global _interpreters
    if event == "subprocess.Popen":
        _interpreters += any(sys.executable in str(argument) for argument in arguments[1])


sys.addaudithook(_count_interpreters)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    item.stash[_BEFORE] = _interpreters
    return (yield)


_BEFORE = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    result = yield
    costs = {
        "interpreters": _interpreters - item.stash[_BEFORE],
        "process": os.getpid(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "child_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }
    item.user_properties += costs.items()
    return result
