"""Embeddings that are predicted from the model's own predictions."""

import keras
import numpy as np
import pytest
from keras import ops

from nepa_keras import EmbeddingRollout
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close

SHAPE = (16, 16, 1)  # 16 patches


def without_cache(backbone, image, known: int, norm: float | None):
    """Rollout by its definition: the whole sequence goes through the model for every step."""
    z = ops.convert_to_numpy(backbone.embed(image[None]))
    read = z.copy()
    norm = np.linalg.norm(z[0, 1 : 1 + known], axis=-1).mean() if norm is None else norm
    predictions = []
    for t in range(z.shape[1] - 1):
        out = backbone(image[None], embeddings=read, causal=True)["sequence_output"]
        predictions.append(ops.convert_to_numpy(out)[0, t])
        if t >= known:
            read[0, t + 1] = norm * predictions[-1] / np.linalg.norm(predictions[-1])
    return {"embeddings": read[0, 1:], "predictions": np.stack(predictions)}


@pytest.mark.parametrize(
    "arguments, norm",
    [
        ({}, None),
        ({"use_causal_mask": False, "gated_mlp": True, "qk_norm_scale": True}, 3.0),
        (
            {
                "rope_theta": None,
                "position_embedding": "learned",
                "layer_scale": None,
                "qk_norm": False,
            },
            None,
        ),
    ],
    ids=["as pretrained", "a bidirectional one", "a plain ViT"],
)
def test_cached_and_full_rollouts_agree(arguments, norm):
    """For several numbers of known patches in one batch, one of them all."""
    model = tiny.pretrainer(image_shape=SHAPE, **arguments)
    images, known = tiny.images(3, SHAPE), np.array([1, 6, 16])
    rolled = EmbeddingRollout(model.backbone, norm).predict(
        {"images": images, "known": known}, verbose=0
    )
    for i, k in enumerate(known):
        expected = without_cache(model.backbone, images[i], k, norm)
        for name, value in expected.items():
            assert_close(rolled[name][i], value, "same_numbers", f"{name}, {k} known")


def test_a_rollout_reads_the_known_patches_only():
    """Known patches are the image's own; other pixels after them change nothing."""
    model = tiny.pretrainer(image_shape=SHAPE)
    images, known = tiny.images(2, SHAPE), np.array([4, 4])
    others = images.copy()
    others[:, 4:] = 0.5  # the first row of patches stays
    rollout = EmbeddingRollout(model.backbone)
    first, second = (
        rollout.predict({"images": x, "known": known}, verbose=0) for x in (images, others)
    )
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    z = ops.convert_to_numpy(model.backbone.embed(images))
    assert_close(first["embeddings"][:, :4], z[:, 1:5], "same_numbers")


def test_a_rollout_of_a_given_length_needs_no_patch_and_can_be_saved(tmp_path):
    model = tiny.pretrainer(image_shape=SHAPE)
    inputs = {"images": tiny.images(2, SHAPE), "known": np.array([0, 3])}
    rollout = EmbeddingRollout(model.backbone, norm=2.0)
    out = rollout.predict(inputs, verbose=0)
    np.testing.assert_allclose(np.linalg.norm(out["embeddings"][0], axis=-1), 2.0, rtol=1e-5)
    rollout.save(tmp_path / "rollout.keras")
    again = keras.saving.load_model(tmp_path / "rollout.keras").predict(inputs, verbose=0)
    for name, value in out.items():
        assert_close(again[name], value, "same_numbers", name)


def test_the_first_prediction_is_that_of_the_pretrainer():
    model = tiny.pretrainer(image_shape=SHAPE)
    images = tiny.images(2, SHAPE)
    expected = ops.convert_to_numpy(model(images)["predictions"])
    out = EmbeddingRollout(model.backbone).predict(
        {"images": images, "known": np.array([9, 9])}, verbose=0
    )
    assert_close(out["predictions"][:, :10], expected[:, :10], "same_numbers")
    assert np.abs(out["predictions"][:, 10:] - expected[:, 10:]).max() > 1e-3


def test_mixed_precision_stays_near():
    """The cache is held in bfloat16; what is predicted points where float32 points."""
    exact, rough = (tiny.pretrainer(image_shape=SHAPE, dtype=d) for d in (None, "mixed_bfloat16"))
    inputs = {"images": tiny.images(2, SHAPE), "known": np.array([3, 8])}
    a, b = (
        EmbeddingRollout(m.backbone).predict(inputs, verbose=0)["predictions"]
        for m in (exact, rough)
    )
    cosines = np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert keras.backend.standardize_dtype(b.dtype) == "float32"
    assert cosines[:, :3].min() > 0.99, cosines
