"""Collapse in numbers and words; the monitor in `fit` sees it and does not disturb training."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nepa_keras
from nepa_keras import evaluation, training
from tests.helpers import tiny


def normal(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width))


@pytest.mark.once
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_effective_rank_counts_equal_directions(rank, seed):
    """The effective rank of k orthogonal directions of equal strength is k, in any rotation and scale."""
    left, _ = np.linalg.qr(normal(40, 12, seed))
    right, _ = np.linalg.qr(normal(16, 16, seed + 1))
    x = left[:, :rank] @ right[:rank]
    assert evaluation.effective_rank(7.0 * x) == pytest.approx(rank, rel=1e-6)


@pytest.mark.once
def test_effective_rank_ends():
    assert evaluation.effective_rank(np.zeros((5, 3))) == 1.0
    assert evaluation.effective_rank(np.ones((5, 3))) == pytest.approx(1.0)
    assert 55 < evaluation.effective_rank(normal(5000, 64)) <= 64


@pytest.mark.once
def test_numbers_of_spread_and_of_collapsed_embeddings():
    free = evaluation.diagnostics(normal(2000, 32))
    assert free["spread"] == pytest.approx(1.0, abs=0.03) and abs(free["mean_cosine"]) < 0.1
    assert evaluation.collapse_warnings(free) == {}
    direction = normal(1, 32)
    collapsed = evaluation.diagnostics(direction + 1e-4 * normal(200, 32, seed=1))
    assert collapsed["effective_rank"] < 1.1 and collapsed["mean_cosine"] > 0.9999
    assert set(evaluation.collapse_warnings(collapsed)) == {
        "effective_rank",
        "mean_cosine",
        "spread",
    }


@pytest.mark.once
def test_drift_is_the_turn_since_before():
    x = normal(50, 8)
    assert evaluation.diagnostics(3 * x, x)["drift"] == pytest.approx(0.0, abs=1e-12)
    assert evaluation.diagnostics(-x, x)["drift"] == pytest.approx(2.0)
    assert (
        "lower the learning rate"
        in evaluation.collapse_warnings(evaluation.diagnostics(-x, x))["drift"]
    )


def model(**arguments):
    keras.utils.set_random_seed(0)
    pretrainer = nepa_keras.NepaPretrainer(tiny.backbone(), **arguments)
    tiny.compile_model(pretrainer, training.adamw(1e-3))
    return pretrainer


def images(count: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def values(pretrainer) -> list:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in pretrainer.trainable_variables]


def fit(pretrainer, callbacks=(), epochs=3):
    floats = nepa_keras.data.normalize(images())
    return pretrainer.fit(
        floats, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    ).history


def test_the_logs_have_what_the_monitor_saw_and_training_is_the_same():
    watched, plain = model(), model()
    monitor = evaluation.FeatureMonitor(images(), np.arange(24) % 3, every=2, k=5)
    history = fit(watched, [monitor])
    fit(plain)
    for a, b in zip(values(watched), values(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    features = evaluation.extract_features(watched.backbone, images())
    expected = evaluation.diagnostics(features)
    for name, value in expected.items():
        assert history[f"feature_{name}"][-1] == pytest.approx(value, rel=1e-3)
    assert history["target_drift"][0] == pytest.approx(0.0, abs=1e-6)
    assert history["target_drift"][2] > 1e-6
    # Of every second epoch; between two looks the last values stand.
    assert history["feature_spread"][0] == history["feature_spread"][1]
    labels = np.arange(24) % 3
    accuracy = evaluation.knn_accuracy(features[:12], labels[:12], features[12:], labels[12:], k=5)
    assert history["knn_accuracy"][-1] == pytest.approx(accuracy)


def test_a_linear_probe_is_watched_too():
    """Bright and dark images, which any features tell apart."""
    labels = np.arange(60) % 2
    pixels = (
        np.random.default_rng(0).integers(0, 90, (60, 8, 8, 1)) + 150 * labels[:, None, None, None]
    )
    pixels = pixels.astype("uint8")
    watched = model()
    monitor = evaluation.FeatureMonitor(pixels, labels, linear_probe=True)
    history = fit(watched, [monitor], epochs=1)
    features = evaluation.extract_features(watched.backbone, pixels)
    expected = evaluation.linear_probe_accuracy(
        features[:30], labels[:30], features[30:], labels[30:]
    )
    assert history["linear_probe_accuracy"] == pytest.approx([expected]) and expected > 0.9


def test_a_collapse_is_said_once_until_it_is_over():
    collapsed, said = model(), []
    for variable in collapsed.backbone.trainable_variables:
        if "norm/gamma" in variable.path and "block" not in variable.path:
            variable.assign(np.zeros(variable.shape))  # the final norm gives its offset alone
        if "norm/beta" in variable.path and "block" not in variable.path:
            variable.assign(np.ones(variable.shape))
    collapsed.optimizer.learning_rate = 0.0
    monitor = evaluation.FeatureMonitor(images(), say=said.append)
    history = fit(collapsed, [monitor])
    assert history["feature_mean_cosine"] == pytest.approx([1.0] * 3)
    assert "knn_accuracy" not in history
    assert len(said) == 3 and sum("directions" in text for text in said) == 1
    assert all(text.startswith("epoch 1: ") for text in monitor.warnings)


def test_features_that_are_not_finite_are_said_too():
    """The log has all columns from the first look on, as CSVLogger takes none later."""
    broken = model()
    watched = evaluation.FeatureMonitor(images(), np.arange(24) % 3, say=lambda text: None)
    names = set(fit(broken, [watched], epochs=1)) - set(fit(model(), epochs=1))
    monitor = evaluation.FeatureMonitor(images(), np.arange(24) % 3, say=lambda text: None)
    monitor.set_model(broken)
    broken.backbone.patch_embedding.bias.assign(np.full(broken.backbone.hidden_dim, np.nan))
    logs = {}
    monitor.on_epoch_end(1, logs)
    assert set(logs) == names and np.isnan(list(logs.values())).all()
    assert "features are not finite" in monitor.warnings[-1]


WRONG = {
    "at least 4 images": ((images(3),), {}),
    "2 labels for 24 images": ((images(), [1, 2]), {}),
    "needs labels": ((images(),), {"linear_probe": True}),
    "cannot be split": ((images(), np.arange(24) % 3), {"linear_probe": True}),
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_arguments_are_refused(words):
    arguments, options = WRONG[words]
    with pytest.raises(ValueError, match=words):
        evaluation.FeatureMonitor(*arguments, **options)
