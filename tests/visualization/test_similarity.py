"""Maps of predicted similarity: formula, index of the prediction, causality, picture."""

import keras
import numpy as np
import pytest

from nepa_keras.visualization import plot_similarity, predicted_similarity, top_p_filter
from tests.helpers import tiny

SHAPE = (8, 12, 1)  # 2 x 3 patches


def test_maps_are_the_softmax_of_cosines_with_the_embeddings():
    model, images = tiny.pretrainer(), tiny.images(2, SHAPE)
    maps = predicted_similarity(model, images, queries=[0, 3, 5], temperature=0.5)
    assert maps.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1.0, rtol=1e-5)

    out = model(images)  # predictions[t] is made at token t, and patch t is token 1 + t
    predicted = keras.ops.convert_to_numpy(out["predictions"])[1, 1 + 3]
    patches = keras.ops.convert_to_numpy(out["targets"])[1]
    norms = np.linalg.norm(patches, axis=1) * np.linalg.norm(predicted)
    weights = np.exp(patches @ predicted / norms / 0.5)
    np.testing.assert_allclose(maps[1, 1].ravel(), weights / weights.sum(), rtol=1e-4)


def test_the_mask_is_causal_even_on_a_bidirectional_backbone():
    causal, both_ways = tiny.pretrainer(), tiny.pretrainer(use_causal_mask=False)
    images = tiny.images(1, SHAPE)
    np.testing.assert_allclose(
        predicted_similarity(causal, images, [2]),
        predicted_similarity(both_ways.backbone, images, [2]),
        rtol=1e-4,
    )


@pytest.mark.once
def test_top_p_keeps_the_fewest_that_hold_the_share():
    weights = np.array([[0.1, 0.5, 0.4], [0.2, 0.7, 0.1]], "float32")
    kept = top_p_filter(weights, 0.6)
    np.testing.assert_allclose(kept, [[0, 5 / 9, 4 / 9], [0, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(top_p_filter(weights, 1.0), weights, rtol=1e-6)
    with pytest.raises(ValueError, match="top_p"):
        top_p_filter(weights, 0.0)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_picture_is_written(tmp_path, channels):
    images = tiny.images(2, (8, 12, channels))
    model = tiny.pretrainer(image_shape=(8, 8, channels))
    plot_similarity(model, images, tmp_path / "a.png")
    plot_similarity(model.backbone, images[:1], tmp_path / "b.png", queries=[4, 5], top_p=0.5)
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_wrong_inputs_are_refused():
    model, images = tiny.pretrainer(), tiny.images(1, SHAPE)
    for queries in ([6], [-1], []):
        with pytest.raises(ValueError, match="patches 0 to 5"):
            predicted_similarity(model, images, queries)
    with pytest.raises(ValueError, match="patches of 4x4"):
        predicted_similarity(model, tiny.images(1, (9, 8, 1)), [0])
    with pytest.raises(ValueError, match="temperature"):
        predicted_similarity(model, images, [0], temperature=0.0)
