"""JAX, TensorFlow and PyTorch compute the same numbers from the same weights and inputs.

One process per backend, as Keras fixes its backend at import. A backend that is missing or fails
fails these tests; it is never skipped.
"""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from tests.helpers.scripts import environment
from tests.helpers.tolerances import assert_close

BACKENDS = ("jax", "tensorflow", "torch")
PAIRS = list(combinations(BACKENDS, 2))

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """backend -> name -> array."""
    folder = tmp_path_factory.mktemp("traces")
    processes = {
        backend: subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.backend_trace", str(folder / f"{backend}.npz")],
            # As users compile, which for the other processes of tests takes too long.
            env=environment(KERAS_BACKEND=backend, JAX_DISABLE_MOST_OPTIMIZATIONS="0"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for backend in BACKENDS
    }
    output = {backend: process.communicate()[0] for backend, process in processes.items()}
    for backend, process in processes.items():
        assert process.returncode == 0, f"the {backend} process failed:\n{output[backend]}"
    traces = {backend: dict(np.load(folder / f"{backend}.npz")) for backend in BACKENDS}
    for backend, trace in traces.items():
        assert str(trace.pop("backend")) == backend
    return traces


def compare(traces, pair, part: str, kind: str | None) -> int:
    """Compare all arrays of a part; return their number."""
    first, second = (traces[backend] for backend in pair)
    assert sorted(first) == sorted(second)
    names = [name for name in first if part in name.split("/")]
    for name in names:
        if kind is None:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        else:
            assert_close(first[name], second[name], kind, f"{name} ({pair[0]} and {pair[1]})")
    return len(names)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_states_and_attention(traces, pair):
    assert compare(traces, pair, "states", "backends_states") == 2 * (4 + 3 + 2)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_gradients_agree(traces, pair):
    assert compare(traces, pair, "gradient", "backends_gradient") > 100


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_segmentation(traces, pair):
    assert compare(traces, pair, "segment", "backends_states") == 1
    assert compare(traces, pair, "segment_gradient", "backends_gradient") > 100


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_objectives_beside_the_papers(traces, pair):
    assert compare(traces, pair, "objective", "backends_states") == 2
    assert compare(traces, pair, "objective_gradient", "backends_gradient") > 40


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_weights_and_averages_after_a_step(traces, pair):
    assert compare(traces, pair, "step", "backends_step") > 200


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_augmented_images_are_bit_identical(traces, pair):
    assert compare(traces, pair, "inputs", None) == 2


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_loss_curve_of_fifty_steps(traces, pair):
    assert compare(traces, pair, "curve", "backends_curve") == 1
    losses = traces[pair[0]]["curve/loss"]
    assert len(losses) == 50
    assert losses[-10:].mean() < losses[:10].mean() - 0.1, "the curve is of a model that learns"
