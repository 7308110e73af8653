"""k-NN against a plain loop, ties, memory bound, bad input."""

import numpy as np
import pytest

from nepa_keras.evaluation import knn, knn_accuracy

pytestmark = pytest.mark.once


def _clusters(count, seed, classes=4, width=6):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    centres = np.random.default_rng(99).standard_normal((classes, width))
    noise = generator.standard_normal((count, width))
    return (centres[labels] + 0.7 * noise).astype("float32"), labels


def _plain_accuracy(train_x, train_y, test_x, test_y, k, temperature):
    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    correct = 0
    for row, truth in zip(unit(test_x), test_y, strict=True):
        cosines = unit(train_x) @ row
        votes = np.zeros(train_y.max() + 1)
        for i in np.argsort(-cosines, kind="stable")[:k]:
            votes[train_y[i]] += np.exp(cosines[i] / temperature)
        correct += votes.argmax() == truth
    return correct / len(test_y)


@pytest.mark.parametrize("k", [1, 7, 120])
def test_neighbours_are_those_of_a_plain_loop(k):
    rows = *_clusters(120, seed=0), *_clusters(50, seed=1)
    assert knn_accuracy(*rows, k=k) == _plain_accuracy(*rows, k=k, temperature=0.07)


def test_chunks_do_not_change_the_answer(monkeypatch):
    rows = *_clusters(120, seed=0), *_clusters(50, seed=1)
    whole = knn_accuracy(*rows, k=5)
    monkeypatch.setattr(knn, "_CHUNK_BYTES", 4 * 120 * 7)  # 7 rows at a time
    assert knn_accuracy(*rows, k=5) == whole


def test_ties_go_to_the_first_row():
    same = np.ones((4, 2), "float32")
    labels = np.array([2, 1, 1, 1])
    assert knn_accuracy(same, labels, same[:1], np.array([2]), k=1) == 1.0
    assert knn_accuracy(same, labels, same[:1], np.array([1]), k=3) == 1.0
    # One vote each: the smaller class wins.
    assert knn_accuracy(same, labels, same[:1], np.array([1]), k=2) == 1.0


def test_large_cosines_over_a_small_temperature_stay_finite():
    x, y = _clusters(30, seed=0)
    assert knn_accuracy(1e6 * x, y, 1e-6 * x, y, k=1, temperature=1e-4) == 1.0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"k": 0}, "k=0"),
        ({"k": 31}, "30 training images"),
        ({"temperature": 0.0}, "temperature"),
        (
            {"test_x": np.ones((3, 5), "float32"), "test_y": np.zeros(3, int)},
            "width 6 and test_x 5",
        ),
        ({"train_y": np.zeros(29, int)}, "train_x must be"),
        ({"test_x": np.full((3, 6), np.nan), "test_y": np.zeros(3, int)}, "test_x contains NaN"),
        ({"train_y": np.zeros(30)}, "integers"),
    ],
)
def test_wrong_inputs_are_refused(changes, message):
    x, y = _clusters(30, seed=0)
    rows = {"train_x": x, "train_y": y, "test_x": x, "test_y": y, "k": 3}
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**{**rows, **changes})
