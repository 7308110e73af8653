"""Accuracy, confusions and calibration against scikit-learn and against cases known by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from nepa_keras import data, evaluation


def random_case(seed: int, count: int = 300, classes: int = 7):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.standard_normal((count, classes)) + 1.5 * np.eye(classes)[labels]
    return logits, labels


@pytest.mark.once
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_figures_are_those_of_scikit_learn(seed, classes):
    logits, labels = random_case(seed, classes=classes)
    report = evaluation.classification_report(logits, labels)
    guess, all_labels = logits.argmax(axis=1), range(classes)
    assert report.top1 == pytest.approx(metrics.accuracy_score(labels, guess))
    if classes > 5:
        expected = metrics.top_k_accuracy_score(labels, logits, k=5, labels=all_labels)
        assert report.top5 == pytest.approx(expected)
    expected = metrics.confusion_matrix(labels, guess, labels=all_labels)
    np.testing.assert_array_equal(report.confusion, expected)
    recalls = metrics.recall_score(labels, guess, labels=all_labels, average=None, zero_division=0)
    present = np.bincount(labels, minlength=classes) > 0
    np.testing.assert_allclose(report.class_accuracies[present], recalls[present])
    assert np.isnan(report.class_accuracies[~present]).all()
    assert report.count == 300


def probabilities(confidence) -> np.ndarray:
    """Logits of two classes, the first with that probability."""
    confidence = np.asarray(confidence, "float64")
    return np.log(np.stack([confidence, 1 - confidence], axis=1))


@pytest.mark.once
def test_calibration_error_by_hand():
    """Two bins: confidence 0.9 and right half of the time, 0.6 and right always; 3 : 1 images."""
    logits = probabilities([0.9] * 6 + [0.6] * 2)
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 0])
    expected = (6 * abs(0.5 - 0.9) + 2 * abs(1.0 - 0.6)) / 8
    assert evaluation.calibration_error(logits, labels) == pytest.approx(expected)


@pytest.mark.once
def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large_one():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, 50_000)
    labels = (generator.uniform(size=50_000) > confidence).astype(int)
    logits = probabilities(confidence)
    assert evaluation.calibration_error(logits, labels) < 0.01
    assert evaluation.calibration_error(5 * logits, labels) > 0.1


@pytest.mark.once
def test_the_text_names_the_worst_classes_and_mistakes():
    logits = np.eye(3)[[0, 0, 1, 1, 1, 2, 1]] * 5
    labels = np.array([0, 0, 1, 1, 2, 2, 2])
    report = evaluation.classification_report(logits, labels, ("cat", "dog", "bird"))
    assert report.confusions() == [("bird", "dog", 2)]
    text = str(report)
    assert "7 images, 3 classes: top-1 71.43 %, top-5 100.00 %" in text
    assert "most frequent mistakes: dog for bird (2)" in text
    assert text.index("bird ") < text.index("cat ")
    figures = report.figures()
    assert figures["class_accuracies"]["bird"] == pytest.approx(1 / 3)
    assert figures["confusion"][2] == [0, 2, 1]


def test_predictions_of_batches_come_with_their_indices():
    import nepa_keras
    from tests.helpers import tiny

    model = nepa_keras.NepaImageClassifier(tiny.backbone(), 4)
    model.head.kernel.assign(np.random.default_rng(0).standard_normal(model.head.kernel.shape))
    images = np.random.default_rng(1).integers(0, 256, (11, 8, 8, 1), dtype=np.uint8)
    size = model.backbone.image_shape[:2]
    logits, indices = evaluation.predict_batches(model, data.OrderedBatches(images, 4, size))
    np.testing.assert_array_equal(indices, np.arange(11))
    expected = model.predict_on_batch(data.normalize(images, size))
    np.testing.assert_allclose(logits, np.asarray(expected), atol=1e-5)


@pytest.mark.once
def test_labels_of_few_bits_count_like_others():
    logits, labels = random_case(0, classes=30)
    wide = evaluation.classification_report(logits, labels)
    narrow = evaluation.classification_report(logits, labels.astype("uint8"))
    np.testing.assert_array_equal(wide.confusion, narrow.confusion)
    assert np.trace(narrow.confusion) / narrow.count == pytest.approx(narrow.top1)


WRONG = {
    "floats": (np.zeros((2, 3)), [0.0, 1.0], "class numbers, got float64"),
    "label": (np.zeros((2, 3)), [0, 3], "0 to 3, but the model has 3 classes"),
    "shape": (np.zeros((2, 3)), [0], r"\(2, 3\) and \(1,\)"),
    "none": (np.zeros((0, 3)), [], "B > 0"),
    "finite": (np.full((1, 3), np.nan), [0], "NaN or infinity"),
}


@pytest.mark.once
@pytest.mark.parametrize("problem", WRONG)
def test_wrong_inputs_are_refused(problem):
    logits, labels, words = WRONG[problem]
    with pytest.raises(ValueError, match=words):
        evaluation.classification_report(logits, np.array(labels) if labels else np.zeros(0, int))
