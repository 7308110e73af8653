"""mIoU from one confusion matrix, and masks of whole images through windows, scales and mirrors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nepa_keras
from nepa_keras import evaluation, visualization
from nepa_keras.data.transforms.resample import resize
from nepa_keras.evaluation.segment_images import window_starts
from tests.helpers import tiny


@pytest.mark.once
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_the_confusion_matrix_is_scikit_learns(classes, seed):
    from sklearn.metrics import confusion_matrix, jaccard_score

    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, (3, 7, 5))
    predictions = draw.integers(0, classes, (3, 7, 5))
    ignored = draw.random(labels.shape) < 0.2
    scores = evaluation.SegmentationScores(classes)
    for truth, predicted, out in zip(labels, predictions, ignored, strict=True):
        scores.update(np.where(out, 255, truth), predicted)
    kept = labels[~ignored], predictions[~ignored]
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(*kept, labels=range(classes)))
    report = scores.report()
    present = np.union1d(*kept)
    expected = jaccard_score(*kept, labels=present, average=None)
    np.testing.assert_allclose(report.iou[present], expected)
    assert report.miou == pytest.approx(expected.mean())
    assert report.aacc == pytest.approx((kept[0] == kept[1]).mean())
    truths = np.unique(kept[0])
    accuracies = [(kept[1][kept[0] == k] == k).mean() for k in truths]
    assert report.macc == pytest.approx(np.mean(accuracies))


@pytest.mark.once
def test_absent_classes_and_nothing_at_all():
    scores = evaluation.SegmentationScores(4)
    empty = scores.report()
    assert np.isnan([empty.miou, empty.macc, empty.aacc]).all()
    scores.update(np.full((2, 2), 255), np.zeros((2, 2), int))
    assert np.isnan(scores.report().miou)
    # Class 0 right but for a pixel taken for 1, which the truth lacks; 2 and 3 are nowhere.
    scores.update(np.zeros((2, 2), int), np.array([[0, 0], [0, 1]]))
    report = scores.report()
    np.testing.assert_array_equal(np.isnan(report.iou), [False, False, True, True])
    np.testing.assert_array_equal(np.isnan(report.accuracy), [False, True, True, True])
    assert report.miou == pytest.approx((0.75 + 0.0) / 2) and report.macc == 0.75
    table = report.table(["a", "b", "c", "d"])
    assert "75.00" in table and "37.50" in table and table.count(" -") >= 3


@pytest.mark.once
def test_counts_beyond_what_float32_holds():
    scores = evaluation.SegmentationScores(2)
    scores.confusion[0, 0] = 2**24
    scores.update(np.zeros((1, 1), int), np.ones((1, 1), int))
    assert scores.report().aacc == 2**24 / (2**24 + 1)


WRONG = {
    "same shape": (np.zeros((2, 2)), np.zeros((2, 3))),
    "A label is 3; classes are 0 to 2": (np.full((2, 2), 3), np.zeros((2, 2))),
    "A prediction is 255": (np.zeros((2, 2)), np.full((2, 2), 255)),
}


@pytest.mark.once
@pytest.mark.parametrize("words", WRONG)
def test_labels_out_of_range_are_refused(words):
    with pytest.raises(ValueError, match=words):
        evaluation.SegmentationScores(3).update(*WRONG[words])


@pytest.mark.once
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 60))
def test_windows_cover_everything_and_stay_inside(length, window, stride):
    stride = min(stride, window)
    starts = window_starts(length, min(window, length), stride)
    assert len(set(starts)) == len(starts)
    covered = np.zeros(length)
    for start in starts:
        assert start >= 0 and start + min(window, length) <= length
        covered[start : start + window] += 1
    assert covered.min() >= 1


def segmenter():
    model = nepa_keras.NepaImageSegmenter(tiny.backbone(), 3, channels=8)
    tiny.spread_weights(model)
    return model


def image(height=22, width=30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 1), dtype=np.uint8)


def logits_of(model, pixels: np.ndarray) -> np.ndarray:
    return model.predict(nepa_keras.data.normalize(pixels[None]), verbose=0)[0]


def test_windows_are_averaged_where_they_overlap():
    model, pixels = segmenter(), image()
    whole = evaluation.ImageSegmenter(model).scores(pixels)
    np.testing.assert_allclose(whole, logits_of(model, pixels), rtol=1e-5, atol=1e-4)
    one = evaluation.ImageSegmenter(model, window=30).scores(pixels)
    np.testing.assert_allclose(one, whole, rtol=1e-5, atol=1e-4)
    found = evaluation.ImageSegmenter(model, window=16, stride=10).scores(pixels)
    total, count = np.zeros((22, 30, 3)), np.zeros((22, 30, 1))
    for top in (0, 6):
        for left in (0, 10, 14):
            place = slice(top, top + 16), slice(left, left + 16)
            total[place] += logits_of(model, pixels[place])
            count[place] += 1
    np.testing.assert_allclose(found, total / count, rtol=1e-5, atol=1e-4)
    oblong = evaluation.ImageSegmenter(model, window=(22, 16), stride=(22, 14)).scores(pixels)
    parts = [logits_of(model, pixels[:, left : left + 16]) for left in (0, 14)]
    middle = (parts[0][:, 14:] + parts[1][:, :2]) / 2
    expected = np.concatenate([parts[0][:, :14], middle, parts[1][:, 2:]], axis=1)
    np.testing.assert_allclose(oblong, expected, rtol=1e-5, atol=1e-4)


def test_mirrors_and_scales_are_averaged_as_probabilities():
    model, pixels = segmenter(), image(16, 16)

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    mirrored = logits_of(model, pixels[:, ::-1])[:, ::-1]
    expected = (softmax(logits_of(model, pixels)) + softmax(mirrored)) / 2
    found = evaluation.ImageSegmenter(model, flip=True).scores(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    factors = (0.5, 1.0, 1.75)
    looks = [evaluation.ImageSegmenter(model, scales=(f,)).scores(pixels) for f in factors]
    assert np.abs(looks[0] - looks[1]).max() > 0.1
    both = evaluation.ImageSegmenter(model, scales=factors).scores(pixels)
    np.testing.assert_allclose(both, np.mean([softmax(x) for x in looks], axis=0), atol=1e-5)
    labels = evaluation.ImageSegmenter(model, flip=True).labels(pixels)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, found.argmax(-1))


def test_logits_come_back_to_the_original_size():
    """Fitted into other bounds, decided at the size the image had."""
    model, pixels = segmenter(), image(37, 51)
    found = evaluation.ImageSegmenter(model, fit=(64, 16))
    logits = torch.tensor(logits_of(model, resize(pixels, (16, 22), "bilinear")))
    expected = torch.nn.functional.interpolate(
        logits.permute(2, 0, 1)[None], (37, 51), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(found.scores(pixels), expected.numpy(), atol=1e-4)
    np.testing.assert_array_equal(found.labels(pixels), found.scores(pixels).argmax(-1))
    for words, arguments in {
        "needs a window": {"stride": 9},
        "a longer and a shorter side": {"fit": (16, 64)},
        "leaves gaps": {"window": 8, "stride": 9},
        "factors above 0": {"scales": ()},
    }.items():
        with pytest.raises(ValueError, match=words):
            evaluation.ImageSegmenter(segmenter(), **arguments)


@pytest.mark.once
def test_the_picture_shows_labels_in_their_colours(tmp_path):
    colors = visualization.class_colors(150)
    assert len({tuple(color) for color in colors.tolist()}) == 150
    labels = np.array([[0, 1], [149, 255]])
    shown = visualization.overlay(np.full((2, 2, 1), 100, np.uint8), labels, colors, 1.0)
    np.testing.assert_array_equal(shown[0, 1], colors[1])
    np.testing.assert_array_equal(shown[1, 0], colors[149])
    np.testing.assert_array_equal(shown[1, 1], 100)  # of no class
    names = [f"class {i}" for i in range(150)]
    path = tmp_path / "picture.png"
    visualization.plot_segmentation(
        [image(8, 9)] * 2, [np.zeros((8, 9), int)] * 2, [np.ones((8, 9), int)] * 2, names, path
    )
    assert path.stat().st_size > 5000
