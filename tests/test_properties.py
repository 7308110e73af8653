"""Properties that hold for any weights and images."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import nepa_keras
from nepa_keras.backends import rotate
from nepa_keras.layers.rotary import grid_coordinates, rope_tables
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close

FEW = settings(max_examples=15, deadline=None, derandomize=True)


def nepa_loss(predictions, targets) -> float:
    """Length of each vector of an array."""
    arrays = (ops.convert_to_tensor(predictions), ops.convert_to_tensor(targets))
    return float(nepa_keras.nepa_loss(*arrays))


def outputs(backbone, images, **arguments):
    return ops.convert_to_numpy(backbone(images, **arguments)["sequence_output"])


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("gated_mlp", [False, True])
def test_causal_outputs_do_not_see_the_future(gated_mlp, remat):
    """Changing patch t changes no output before token t + 1, and changes that one."""
    backbone = tiny.pretrainer(gated_mlp=gated_mlp, remat=remat).backbone
    images = tiny.images(1)
    before = outputs(backbone, images)
    for patch in range(4):
        y, x = divmod(patch, 2)
        changed = images.copy()
        changed[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 1.0
        after = outputs(backbone, changed)
        token = 1 + patch  # CLS is token 0
        np.testing.assert_array_equal(after[:, :token], before[:, :token])
        moved = np.abs(after[:, token:] - before[:, token:]).max(axis=(0, 2))
        assert np.all(moved > 1e-3), "the patch itself and everything after it see the change"


def test_causal_taps_do_not_see_the_future():
    backbone = tiny.pretrainer().backbone
    for probabilities in backbone.activations(tiny.images(2))["attentions"]:
        probabilities = ops.convert_to_numpy(probabilities)
        np.testing.assert_array_equal(np.triu(probabilities, k=1), 0.0)
        np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, rtol=1e-6)


def test_bidirectional_outputs_see_the_future():
    """Attention chosen by the argument of the call, of the constructor, and of the classifier."""
    model = tiny.pretrainer()
    images = tiny.images(1)
    changed = images.copy()
    changed[:, 4:, 4:] += 1.0  # the last patch
    by_call = [outputs(model.backbone, x, causal=False) for x in (images, changed)]
    assert np.all(np.abs(by_call[0] - by_call[1]).max(axis=(0, 2)) > 1e-3)
    other = nepa_keras.clone_backbone(model.backbone, use_causal_mask=False)
    assert_close(outputs(other, images), by_call[0], "same_numbers")
    assert_close(
        outputs(other, images, causal=True), outputs(model.backbone, images), "same_numbers"
    )
    for causal in (False, True):
        classifier = nepa_keras.NepaImageClassifier(model.backbone, 3, use_causal_mask=causal)
        pooled = outputs(model.backbone, images, causal=causal)[:, 1:].mean(axis=1)
        classifier.head.kernel.assign(np.eye(16, 3))
        expected = ops.convert_to_numpy(classifier.fc_norm(pooled))[:, :3]
        assert_close(ops.convert_to_numpy(classifier(images)), expected, "same_numbers")


@FEW
@given(
    grid=st.sampled_from([(6,), (2, 3), (3, 1, 2)]),
    offset=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2)),
    head_dim=st.sampled_from([8, 12, 16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rope_scores_depend_on_relative_position_only(grid, offset, head_dim, seed):
    """Moving all coordinates by one vector leaves every q . k as it was; and norms are kept."""
    generator = np.random.default_rng(seed)
    coordinates, offset = grid_coordinates(grid), offset[: len(grid)]
    q, k = generator.standard_normal((2, 1, 1, 6, head_dim)).astype("float32")

    def scores(moved):
        cos, sin = rope_tables(moved, head_dim)
        rotated = [rotate(ops.convert_to_tensor(x), cos, sin) for x in (q, k)]
        return ops.convert_to_numpy(ops.matmul(rotated[0], ops.swapaxes(rotated[1], -1, -2)))

    here = scores(coordinates)
    # float32 angles of up to 2 pi 3 = 19 are good to 2e-6; the scores sum head_dim products.
    np.testing.assert_allclose(scores(coordinates + np.asarray(offset)), here, atol=2e-4)
    plain = (q @ np.swapaxes(k, -1, -2))[0, 0]
    np.testing.assert_allclose(np.diag(here[0, 0]), np.diag(plain), atol=1e-4)
    assert not np.allclose(here[0, 0], plain, atol=1e-2), "different positions are told apart"


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (16, 8), (4, 4)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_rectangle_and_any_number_of_channels(size, channels):
    """One backbone takes every size the patch divides."""
    backbone = tiny.backbone(image_shape=(8, 8, channels))
    out = backbone(tiny.images(2, (*size, channels)))
    tokens = 1 + size[0] * size[1] // 16
    assert out["embeddings"].shape == out["sequence_output"].shape == (2, tokens, 16)


def test_samples_do_not_see_each_other():
    model, images = tiny.pretrainer(), tiny.images(4)
    together = outputs(model.backbone, images)
    alone = np.concatenate([outputs(model.backbone, images[i : i + 1]) for i in range(4)])
    assert_close(together, alone, "same_numbers")


@FEW
@given(scale=st.floats(1e-4, 1e4), seed=st.integers(0, 2**32 - 1))
def test_loss_of_perfect_predictions_is_minus_one(scale, seed):
    """-1 when predictions are positive multiples of the targets, 1 when they are opposite."""
    targets = np.random.default_rng(seed).standard_normal((2, 5, 8)).astype("float32")
    scale = np.float32(scale)
    assert nepa_loss(targets * scale, targets) == pytest.approx(-1.0, abs=1e-6)
    assert nepa_loss(-targets * scale, targets) == pytest.approx(1.0, abs=1e-6)


@FEW
@given(
    scales=st.tuples(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4)),
    seed=st.integers(0, 2**32 - 1),
)
def test_loss_is_invariant_to_positive_scale_and_bounded(scales, seed):
    generator = np.random.default_rng(seed)
    predictions, targets = generator.standard_normal((2, 2, 5, 8)).astype("float32")
    loss = nepa_loss(predictions, targets)
    assert -1.0 <= loss <= 1.0
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (predictions, targets)]
    assert loss == pytest.approx(-(unit[0] * unit[1]).sum(axis=-1).mean(), abs=1e-6)
    per_position = 2.0 ** generator.integers(-4, 5, (2, 5, 1)).astype("float32")
    scaled = nepa_loss(
        predictions * per_position * np.float32(scales[0]), targets * np.float32(scales[1])
    )
    assert scaled == pytest.approx(loss, abs=1e-6)


def test_loss_of_zero_vectors_is_finite_with_finite_gradients():
    """Norms are floored: a black patch with a zero bias must not poison the step."""
    from tests.helpers.gradients import loss_and_gradients

    model = tiny.pretrainer()
    model.backbone.patch_embedding.bias.assign(np.zeros(16))
    images = ops.convert_to_tensor(np.zeros((2, 8, 8, 1), "float32"))
    value, gradients = loss_and_gradients(
        model, lambda: model.compute_loss(x=images, y_pred=model(images))
    )
    assert value == 0.0
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_targets_get_no_gradient():
    """Targets pass no gradient to the embedding; without stop-gradient they do."""
    from tests.helpers.gradients import loss_and_gradients

    model = tiny.pretrainer()
    images = ops.convert_to_tensor(tiny.images(2))
    predictions = ops.convert_to_tensor(tiny.images(2, (4, 16)))
    paths = [v.path for v in model.trainable_variables]
    kernel = paths.index(model.backbone.patch_embedding.kernel.path)
    for stop in (True, False):

        def loss(stop=stop):
            targets = model.backbone.embed(images)[:, 1:]
            return nepa_keras.nepa_loss(predictions, targets, stop_gradient=stop)

        if stop and keras.backend.backend() == "torch":
            assert not loss().requires_grad
            continue
        _, gradients = loss_and_gradients(model, loss)
        assert (np.abs(gradients[kernel]).max() > 0) == (not stop)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_ema_of_constant_weights_is_those_weights(decay):
    """A rate of 0 keeps the average at the weights, up to one rounding."""
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=nepa_keras.training.adamw(0.0, ema_decay=decay))
    start = tiny.weights(model)
    for step in range(5):
        model.train_on_batch(tiny.images(4, seed=step))
    for average, weight, now in zip(
        model.optimizer.ema_values(), start, tiny.weights(model), strict=True
    ):
        np.testing.assert_array_equal(now, weight)
        np.testing.assert_allclose(average, weight, rtol=1e-6, atol=1e-8)


def test_ema_begins_at_the_weights_after_the_first_step_and_follows_the_recursion():
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=nepa_keras.training.adamw(1e-2, ema_decay=0.75))
    expected = None
    for step in range(4):
        model.train_on_batch(tiny.images(4, seed=step))
        now = tiny.weights(model)
        if expected is None:
            expected = now
        else:
            expected = [0.75 * e + 0.25 * w for e, w in zip(expected, now, strict=True)]
        for average, value in zip(model.optimizer.ema_values(), expected, strict=True):
            np.testing.assert_allclose(average, value, rtol=1e-6, atol=1e-7)


def test_drop_path_keeps_the_expected_value():
    """Kept samples are divided by the keep probability; nothing is dropped outside training."""
    layer = nepa_keras.layers.DropPath(0.25, seed=1)
    x = np.ones((4000, 2, 3), "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)
    y = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.75], rtol=1e-6)
    assert np.all(y == y[:, :1, :1]), "whole samples"
    # Four standard errors of 4000 draws.
    assert abs((y[:, 0, 0] > 0).mean() - 0.75) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_initial_weights_are_those_of_the_recipe():
    """Normal(0, 0.02) matrices and CLS, zero biases, unit norms, LayerScale as asked."""
    backbone = nepa_keras.NepaBackbone((8, 8, 3), 4, 128, 2, 4, 256)
    for variable in backbone.trainable_variables:
        value, kind = ops.convert_to_numpy(variable), variable.path.split("/")[-1]
        if kind in ("kernel", "cls_token"):
            error = 4 * 0.02 / (2 * value.size) ** 0.5
            assert value.std() == pytest.approx(0.02, abs=error), variable.path
            assert abs(value.mean()) < 4 * 0.02 / value.size**0.5, variable.path
        else:
            expected = {"bias": 0.0, "beta": 0.0, "gamma": 1.0, "scale": 1e-5}[kind]
            np.testing.assert_allclose(value, expected, rtol=1e-7, err_msg=variable.path)


def test_a_clone_is_trained_without_its_source():
    """The clone's arrays are its own: a step on JAX gives its arrays away."""
    model = tiny.pretrainer()
    before = tiny.weights(model)
    clone = nepa_keras.NepaPretrainer(nepa_keras.clone_backbone(model.backbone))
    tiny.compile_model(clone)
    clone.fit(tiny.images(), batch_size=4, verbose=0)
    for old, now in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(now, old)
