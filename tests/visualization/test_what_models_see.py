"""Attention, surprise, components, nearest patches and rollouts: against their formulae, and as pictures."""

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras import visualization as v
from nepa_keras.visualization.patches import cut_patches, displayable, join_patches
from tests.helpers import tiny

SHAPE = (8, 12, 1)  # 2 x 3 patches


def array(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def test_attention_of_a_patch_is_a_row_of_the_softmax():
    model, images = tiny.pretrainer(), tiny.images(2, SHAPE)
    maps = v.attention_maps(model, images, query=4)
    rows = np.stack([array(a) for a in model.backbone.activations(images)["attentions"]], 1)[
        ..., 5, :
    ]
    np.testing.assert_allclose(maps["heads"].reshape(2, 2, 2, 6), rows[..., 1:], rtol=1e-5)
    np.testing.assert_allclose(maps["cls"], rows[..., 0], rtol=1e-5)
    np.testing.assert_allclose(maps["mean"], maps["heads"].mean(axis=2), rtol=1e-5)
    assert np.all(maps["heads"][..., 1, 2] == 0.0), "the patch after the query is not seen"
    both_ways = v.attention_maps(model, images, query=4, causal=False)
    assert np.all(both_ways["heads"] > 0.0)


def test_one_map_of_chosen_blocks_and_heads():
    model, images = tiny.pretrainer(), tiny.images(2, SHAPE)
    heads = v.attention_maps(model, images, query=4)["heads"]
    mean, highest = heads.mean(axis=(1, 2)), heads.max(axis=2)
    np.testing.assert_allclose(v.attention_map(model, images, 4), mean, rtol=1e-5)
    found = v.attention_map(model, images, 4, heads="max")
    np.testing.assert_allclose(found, highest.mean(axis=1), rtol=1e-5)
    found = v.attention_map(model, images, 4, heads="max", blocks=[1])
    np.testing.assert_allclose(found, highest[:, 1], rtol=1e-5)
    for wrong in ({"heads": "sum"}, {"blocks": [2]}, {"blocks": [-1]}, {"blocks": []}):
        with pytest.raises(ValueError, match="must be"):
            v.attention_map(model, images, 4, **wrong)


@pytest.mark.once
def test_attention_rollout_by_hand():
    """Two tokens, one head: the product of the two mixed matrices, rows that sum to 1."""
    first, second = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    found = v.attention_rollout(np.stack([first, second])[None, :, None])
    mixed = [(a + np.eye(2)) / 2 for a in (first, second)]
    np.testing.assert_allclose(found[0, 0], mixed[0])
    np.testing.assert_allclose(found[0, 1], mixed[1] @ mixed[0])
    np.testing.assert_allclose(found.sum(axis=-1), 1.0)


def test_a_classifier_is_looked_at_with_its_own_mask():
    classifier = nepa_keras.NepaImageClassifier(tiny.backbone(), num_classes=3)
    assert not classifier.use_causal_mask
    assert np.all(v.attention_maps(classifier, tiny.images(1), 1)["heads"] > 0.0)


def test_the_mean_surprise_is_one_plus_the_loss():
    model, images = tiny.pretrainer(), tiny.images(5)
    tiny.compile_model(model)
    errors = v.prediction_error(model, images, batch_size=2)
    assert errors.shape == (5, 2, 2)
    loss = model.evaluate(images, verbose=0)["loss"]
    np.testing.assert_allclose(errors.mean(), 1.0 + loss, atol=1e-5)


@pytest.mark.once
def test_colours_share_one_basis():
    """Equal patches have equal colours in whichever image; three directions fill the three channels."""
    features = np.random.default_rng(0).standard_normal((4, 6, 5)).astype("float32")
    features[3] = features[0]
    colors = v.patch_colors(features)
    np.testing.assert_allclose(colors[0], colors[3], atol=1e-6)
    assert colors.shape == (4, 6, 3) and colors.min() == 0.0 and colors.max() == 1.0
    scores = v.principal_components(features.reshape(-1, 5), 3)
    assert np.all(np.diff(scores.var(axis=0)) < 0), "the largest variance first"
    with pytest.raises(ValueError, match="3 components"):
        v.principal_components(features[0, :2], 3)


def test_patch_features_are_those_of_the_model():
    model, images = tiny.pretrainer(), tiny.images(2)
    features = v.patch_features(model, images)
    assert list(features) == ["embedding", "block 0", "block 1", "output"]
    out = model.backbone(images)
    np.testing.assert_allclose(features["output"], array(out["sequence_output"])[:, 1:], rtol=1e-5)
    np.testing.assert_array_equal(features["embedding"], array(out["embeddings"])[:, 1:])


def test_patches_are_cut_in_the_order_of_the_model_and_joined_again():
    model, images = tiny.pretrainer(), tiny.images(2, SHAPE)
    patches = cut_patches(images, (2, 3))
    np.testing.assert_array_equal(patches[1, 4, ..., 0], images[1, 4:8, 4:8, 0])
    np.testing.assert_array_equal(join_patches(patches, (2, 3)), images)
    bank = v.PatchBank(model, images)
    one = model.backbone.patch_embedding(patches[1, 4][None])
    np.testing.assert_allclose(bank.vectors[6 + 4], array(one)[0, 1], rtol=1e-5, atol=1e-6)


def test_a_patch_is_nearest_to_itself():
    model, images = tiny.pretrainer(), tiny.images(3)
    bank = v.PatchBank(model, images, batch_size=2)
    numbers, cosines = bank.nearest(3.0 * bank.vectors, count=2)
    np.testing.assert_array_equal(numbers[:, 0], np.arange(12))
    np.testing.assert_allclose(cosines[:, 0], 1.0, rtol=1e-5)
    assert np.all(cosines[:, 1] < cosines[:, 0])
    with pytest.raises(ValueError, match="no layer 'block 7'"):
        v.PatchBank(model, images, "block 7")


def test_the_decoder_inverts_a_linear_embedding_and_shrinks_with_noise():
    """16 pixels in 16 numbers: without noise exact on images that it never saw, with noise less of them."""
    model = tiny.pretrainer()
    bank = v.PatchBank(model, tiny.images(50))
    others = tiny.images(4, seed=1)
    embeddings, pixels = array(model.backbone.embed(others))[:, 1:], cut_patches(others, (2, 2))
    exact = v.LinearDecoder(bank, noise=0.0)(embeddings)
    np.testing.assert_allclose(exact, pixels, atol=2e-3)
    errors = [
        np.square(v.LinearDecoder(bank, noise)(embeddings) - pixels).mean() for noise in (0.1, 1.0)
    ]
    assert 0.0 < errors[0] < errors[1] < np.square(pixels).mean()


def test_rollouts_are_compared_with_the_truth():
    model, images = tiny.pretrainer(), tiny.images(3, SHAPE)
    bank = v.PatchBank(model, tiny.images(5, SHAPE, seed=1))
    found = v.compare_rollout(model, images, known=2, bank=bank)
    truth = array(model.backbone.embed(images))[:, 1:]
    np.testing.assert_allclose(found.embeddings[:, :2], truth[:, :2], rtol=1e-5)
    lengths = np.linalg.norm(found.embeddings[:, 2:], axis=-1)
    np.testing.assert_allclose(lengths, bank.norm, rtol=1e-5)
    for cosines in found.cosines.values():
        assert np.isnan(cosines[:2]).all() and np.isfinite(cosines[2:]).all()
    assert found.cosines["rollout"][2] == pytest.approx(found.cosines["one step"][2], abs=1e-5)
    assert abs(found.cosines["rollout"][4] - found.cosines["one step"][4]) > 1e-4
    last = truth[:, 1] / np.linalg.norm(truth[:, 1], axis=-1, keepdims=True)
    there = truth[:, 5] / np.linalg.norm(truth[:, 5], axis=-1, keepdims=True)
    expected = np.mean(np.sum(last * there, axis=-1))
    assert found.cosines["last patch"][5] == pytest.approx(expected, abs=1e-5)
    before = truth[:, 4] / np.linalg.norm(truth[:, 4], axis=-1, keepdims=True)
    expected = np.mean(np.sum(before * there, axis=-1))
    assert found.cosines["patch before"][5] == pytest.approx(expected, abs=1e-5)
    for known in (0, 6):
        with pytest.raises(ValueError, match="known must leave a patch"):
            v.compare_rollout(model, images, known, bank)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_is_written(tmp_path, channels):
    """Images that are no squares, in a folder that does not exist yet."""
    shape = (8, 12, channels)
    model = tiny.pretrainer(image_shape=shape)
    images, others = tiny.images(2, shape), tiny.images(9, shape, seed=1)
    folder = tmp_path / "new"
    v.plot_attention(model, images[0], folder / "attention.png")
    v.plot_prediction_error(model, images, folder / "error.png")
    v.plot_patch_components(model, images, folder / "components.png")
    v.plot_nearest_patches(model, images, others, folder / "nearest.png", query=5, count=3)
    v.plot_rollout(model, images, others, folder / "rollout.png", shown=1)
    features = np.random.default_rng(0).standard_normal((9, 4))
    v.plot_projection(features, others, folder / "a.png")
    labels = np.arange(9) % 2
    v.plot_projection(features, others, folder / "b.png", labels, ("first", "second"))
    v.plot_projection(features, others, folder / "c.png", np.full(9, -1), ("first",))
    v.plot_nearest_patches(model, images, others[:1], folder / "d.png", count=50)
    v.plot_overview(model, images[0], folder / "overview.png", query=1, bank_images=others)
    assert len(list(folder.iterdir())) == 10
    for file in folder.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_no_image_is_shown_twice_as_nearest():
    """One patch of each image, the best one, and neither the query's own image nor a copy of a shown one."""
    from nepa_keras.visualization.patch_bank import _nearest_images

    model, images = tiny.pretrainer(), tiny.images(4)
    bank = v.PatchBank(model, np.concatenate([images, images[1:2], images[:1]]))
    found = _nearest_images(bank, images[0], bank.vectors[2], count=6)
    numbers = [number // 4 for number, _ in found]
    assert sorted(numbers) in ([1, 2, 3], [2, 3, 4])
    cosines = [cosine for _, cosine in found]
    assert cosines == sorted(cosines, reverse=True)
    unit = bank.vectors / np.linalg.norm(bank.vectors, axis=-1, keepdims=True)
    of_all = (unit @ unit[2]).reshape(-1, 4).max(axis=1)
    np.testing.assert_allclose(cosines, of_all[numbers], rtol=1e-5)


def test_wrong_inputs_are_refused(tmp_path):
    model, images = tiny.pretrainer(), tiny.images(1, SHAPE)
    with pytest.raises(ValueError, match="another one follows, 0 to 4, got 5"):
        v.plot_overview(model, images[0], tmp_path / "a.png", query=5)
    with pytest.raises(ValueError, match="2 captions for 1 images"):
        v.plot_prediction_error(model, images, tmp_path / "a.png", captions=["a", "b"])
    with pytest.raises(ValueError, match="a patch, 0 to 5"):
        v.attention_maps(model, images, 6)
    with pytest.raises(ValueError, match="no block 5"):
        v.plot_patch_components(model, images, tmp_path / "a.png", layers=["block 5"])
    with pytest.raises(ValueError, match="from 0 to 5"):
        v.plot_nearest_patches(model, images, images, tmp_path / "a.png", query=-1)
    signal = tiny.backbone(image_shape=(9, 5), embedding=keras.layers.Dense(16))
    with pytest.raises(ValueError, match="tokens lie on 1"):
        v.prediction_error(signal, tiny.images(1, (9, 5)))


@pytest.mark.once
def test_pictures_are_shown_as_they_are():
    np.testing.assert_allclose(displayable(np.full((1, 2, 2, 3), -1.0)), 0.0)
    assert displayable(np.zeros((1, 2, 2, 5))).shape == (1, 2, 2, 1)
