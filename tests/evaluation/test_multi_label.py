"""Several labels an image: average precision against scikit-learn's, the classifier, predictions as CSV."""

import csv

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

import nepa_keras
from nepa_keras import evaluation
from nepa_keras.interop import export_huggingface


def small_classifier(**options) -> nepa_keras.NepaImageClassifier:
    backbone = nepa_keras.NepaBackbone(
        image_shape=(8, 8, 1), patch_size=4, hidden_dim=8, num_layers=1, num_heads=1, mlp_dim=8
    )
    return nepa_keras.NepaImageClassifier(backbone, 3, **options)


@pytest.mark.once
@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_scikit_learns(rows):
    """Ties included, which a threshold takes together."""
    scores, targets = (np.array(column) for column in zip(*rows, strict=True))
    found = evaluation.average_precision(scores.astype(float), targets.astype(int))
    if targets.any():
        assert found == pytest.approx(average_precision_score(targets, scores), abs=1e-12)
    else:
        assert np.isnan(found)


@pytest.mark.once
def test_a_report_of_many_classes():
    draw = np.random.default_rng(0)
    targets = (draw.random((300, 6)) < 0.3).astype("uint8")
    targets[:, 5] = 0
    logits = draw.normal(size=(300, 6)) + targets
    report = evaluation.multi_label_report(logits, targets, list("abcdef"))
    theirs = average_precision_score(targets[:, :5], logits[:, :5], average="macro")
    assert report.mean_average_precision == pytest.approx(theirs, abs=1e-12)
    assert report.f1 == pytest.approx(f1_score(targets, logits >= 0, average="micro"))
    assert report.images.tolist() == targets.sum(axis=0).tolist()
    assert report.figures()["average_precisions"]["f"] is None
    assert "300 images, 6 classes" in str(report) and "1 classes have no image" in str(report)
    for wrong, words in (
        ((logits[:, :5], targets), "both be"),
        ((logits, targets * 2), "zeros and ones"),
        ((logits, targets * 0), "No image shows any"),
        ((logits * np.nan, targets), "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluation.multi_label_report(*wrong)


@pytest.mark.once
def test_predictions_are_a_table(tmp_path):
    """Names that are not UTF-8, commas in names of classes, images without a label."""
    logits = np.array([[0.0, np.log(2), 0.0], [3.0, -3.0, 50.0]])
    names, classes = ["a.png", "b\udcff.png"], ["cat", "dog, wet", "emu"]
    file = tmp_path / "p.csv"

    def rows():
        with open(file, newline="", encoding="utf-8", errors="surrogateescape") as table:
            return list(csv.DictReader(table))

    evaluation.write_predictions(file, names, logits, np.array([2, -1]), classes)
    first, second = rows()
    assert list(first)[:4] == ["name", "label", "predicted", "probability"]
    assert (first["name"], first["label"], first["predicted"]) == ("a.png", "emu", "dog, wet")
    assert float(first["probability"]) == 0.5 and float(first["probability_3"]) == 0.25
    assert [first[f"class_{n}"] for n in (1, 2, 3)] == ["dog, wet", "cat", "emu"]
    assert second["name"] == names[1] and second["label"] == "" and "class_4" not in second
    targets = np.array([[1, 0, 1], [0, 0, 0]])
    evaluation.write_predictions(file, names, logits, targets, classes, multi_label=True)
    first, second = rows()
    assert first["label"] == "cat|emu" and first["predicted"] == "cat|dog, wet|emu"
    assert second["label"] == "" and second["predicted"] == "cat|emu"
    assert [float(x) for x in second["probability"].split("|")] == pytest.approx([0.952574, 1.0])
    with pytest.raises(ValueError, match="1 names and none labels for 2 logits"):
        evaluation.write_predictions(file, ["a"], logits)


def test_a_classifier_of_several_classes_an_image_trains_and_says_what_it_is(tmp_path):
    model = small_classifier(multi_label=True, class_names=("a", "b", "c"))
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype("float32")
    targets = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]], "float32")
    with pytest.raises(ValueError, match=r"CategoricalCrossentropy is for one class per image"):
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    model.compile("sgd", loss=keras.losses.BinaryCrossentropy(from_logits=True))
    history = model.fit(images, targets, batch_size=4, verbose=0)
    assert history.history["loss"][0] == pytest.approx(np.log(2), rel=1e-5)  # of a head of zeros
    with pytest.raises(ValueError, match=r"shape \(4, 2\), but .* takes \(images, 3\)"):
        model.fit(images, targets[:, :2], verbose=0)
    with pytest.raises(ValueError, match="range from 0 to 2"):
        model.fit(images, targets * 2, verbose=0)
    ((first, likely), *_), *_ = model.decode_predictions(np.array([[0.0, 100.0, -800.0]]))
    assert first == "b" and likely == 1.0
    assert [p for _, p in model.decode_predictions(np.zeros((1, 3)))[0]] == [0.5] * 3

    export_huggingface(model, tmp_path / "theirs")
    model.save_to_preset(tmp_path / "ours")
    for folder in ("theirs", "ours"):
        again = nepa_keras.NepaImageClassifier.from_preset(tmp_path / folder)
        assert again.multi_label and again.class_names == ("a", "b", "c")
    assert '"problem_type": "multi_label_class' in (tmp_path / "theirs/config.json").read_text()
    again = nepa_keras.NepaImageClassifier.from_preset(tmp_path / "theirs", multi_label=False)
    export_huggingface(again, tmp_path / "one")
    assert not nepa_keras.NepaImageClassifier.from_preset(tmp_path / "one").multi_label
