"""The linear probe learns, ignores scale, repeats itself, and never fits on test rows."""

import numpy as np
import pytest

from nepa_keras.evaluation import linear_probe_accuracy

pytestmark = pytest.mark.once


def _rows(count, seed, scale=1.0):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, 5))
    y = (x[:, 0] + x[:, 1] > 0).astype(int)
    return (x * scale * [1, 1, 100, 0.01, 1]).astype("float32"), y


def test_separable_rows_are_learned_at_any_scale():
    accuracy = linear_probe_accuracy(*_rows(300, 0), *_rows(200, 1))
    assert accuracy >= 0.95
    scaled = linear_probe_accuracy(*_rows(300, 0, scale=1e3), *_rows(200, 1, scale=1e3))
    assert scaled == pytest.approx(accuracy, abs=0.01)


def test_noise_gives_chance_accuracy_reproducibly():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((400, 5)).astype("float32"), np.arange(400) % 2
    first = linear_probe_accuracy(x[:200], y[:200], x[200:], y[200:], seed=3)
    assert 0.35 < first < 0.65
    assert linear_probe_accuracy(x[:200], y[:200], x[200:], y[200:], seed=3) == first


@pytest.mark.parametrize(
    "labels, fraction",
    [(np.zeros(40, int), 0.1), (np.eye(1, 40, dtype=int)[0], 0.1), (np.arange(40) % 20, 0.1)],
    ids=["one class", "one row of a class", "fewer validation rows than classes"],
)
def test_rows_that_cannot_be_split_are_named(labels, fraction):
    x = np.random.default_rng(0).standard_normal((40, 3))
    with pytest.raises(ValueError, match="40 training rows"):
        linear_probe_accuracy(x, labels, x, labels, validation_fraction=fraction)
