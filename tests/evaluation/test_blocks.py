"""The block whose features are taken is the best on training images held out."""

import json

import keras
import numpy as np
import pytest

from nepa_keras import data, evaluation
from nepa_keras.evaluation import AFTER_NORM, choose_block, choose_features
from tests.helpers import tiny


def features_of_three(rows: int = 200, seed: int = 0) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Block 0 is noise, block 1 tells the three classes, the norm tells two of them apart."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    noise = generator.standard_normal((3, rows, 8)).astype("float32")
    signs = 4.0 * np.eye(8, dtype="float32")[labels]
    merged = 4.0 * np.eye(8, dtype="float32")[np.minimum(labels, 1)]
    return {0: noise[0], 1: 1e-3 * (noise[1] + signs) + 5.0, AFTER_NORM: noise[2] + merged}, labels


@pytest.mark.once
@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_the_block_that_tells_the_classes_is_chosen(probe):
    features, labels = features_of_three()
    if probe == "knn":  # cosines see no offset
        features[1] -= 5.0
    choice = choose_features(features, labels, probe)
    assert choice.block == 1 and list(choice.accuracies) == [0, 1, AFTER_NORM]
    assert choice.accuracies[1] > 0.9 > 0.85 > choice.accuracies[AFTER_NORM] > choice.accuracies[0]
    assert (choice.learned, choice.held_out) == (160, 40)
    assert "block 1, chosen by" in str(choice) and "norm " in str(choice)
    figures = json.loads(json.dumps(choice.figures()))
    assert figures["block"] == "block 1" and set(figures["accuracies"]) == {
        "block 0",
        "block 1",
        "norm",
    }


@pytest.mark.once
def test_of_equal_blocks_the_first_and_images_without_a_label_do_not_count():
    features, labels = features_of_three()
    same = {block: features[1] for block in (2, 0)}
    assert choose_features(same, labels).block == 2
    unlabelled = {b: np.concatenate([x, np.full((50, 8), 1e6)]) for b, x in features.items()}
    more = np.concatenate([labels, np.full(50, -1)])
    assert choose_features(unlabelled, more) == choose_features(features, labels)
    for wrong, words in (
        ({"probe": "svm"}, "probe must be knn or linear"),
        ({"features": {}}, "no features to choose from"),
        ({"labels": np.arange(200)}, "Class 0 has a single image"),
    ):
        with pytest.raises(ValueError, match=words):
            choose_features(**{"features": features, "labels": labels, **wrong})


def test_arrays_and_batches_choose_alike_and_the_extractor_takes_the_block():
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    images = np.random.default_rng(0).integers(0, 90, (60, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1] += 120
    choice = choose_block(backbone, images, labels, "knn")
    batches = data.OrderedBatches(images, 16, 8)
    of_batches = choose_block(backbone, batches, labels, "knn", causal=True)
    assert of_batches.accuracies == pytest.approx(choice.accuracies, abs=0.1)
    assert choice.accuracies[choice.block] > 0.9 and choice.held_out == 12

    floats = tiny.images(5)
    found = evaluation.extract_features(backbone, floats, batch_size=2, block=0)
    states = keras.ops.convert_to_numpy(backbone.activations(floats)["hidden_states"][1])
    np.testing.assert_allclose(found, states[:, 1:].mean(axis=1), rtol=1e-4, atol=2e-5)
    with pytest.raises(ValueError, match="blocks go from 0 to 1, or -1; got 2"):
        evaluation.extract_features(backbone, floats, block=2)
