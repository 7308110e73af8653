"""Features are the pooled output of the backbone, whatever the batch size."""

import keras
import numpy as np
import pytest

from nepa_keras.data import normalize
from nepa_keras.evaluation import FeatureExtractor, extract_features
from tests.helpers import tiny


@pytest.fixture
def backbone():
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    return backbone


@pytest.mark.parametrize("pool, causal", [("mean", None), ("last", True), ("cls", False)])
def test_pooled_features(backbone, pool, causal):
    images = tiny.images(5)
    tokens = backbone(images, causal=causal)["sequence_output"]
    tokens = keras.ops.convert_to_numpy(tokens)
    expected = {"mean": tokens[:, 1:].mean(axis=1), "last": tokens[:, -1], "cls": tokens[:, 0]}
    # 5 images in batches of 2: the last batch is filled up.
    features = extract_features(backbone, images, batch_size=2, pool=pool, causal=causal)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected[pool], rtol=1e-4, atol=1e-5)


def test_bytes_are_normalised_and_resized(backbone):
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), dtype="uint8")
    expected = extract_features(backbone, normalize(images, (8, 8)))
    np.testing.assert_allclose(extract_features(backbone, images), expected, rtol=1e-5, atol=1e-6)


def test_an_extractor_follows_the_weights_of_its_backbone(backbone):
    extractor, images = FeatureExtractor(backbone), tiny.images(4)
    before = extractor.extract(images)
    tiny.spread_weights(backbone, seed=1)
    after = extractor.extract(images)
    np.testing.assert_allclose(after, extract_features(backbone, images), rtol=1e-4, atol=1e-5)
    assert np.abs(after - before).max() > 0.1


def test_wrong_inputs_are_refused(backbone):
    with pytest.raises(ValueError, match="pool must be one of"):
        extract_features(backbone, tiny.images(2), pool="max")
    with pytest.raises(ValueError, match="causal=False"):
        extract_features(backbone, tiny.images(2), pool="cls")
    with pytest.raises(ValueError, match="images is empty"):
        extract_features(backbone, tiny.images(0))
