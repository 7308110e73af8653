"""Objectives beside the paper's: SIGReg by its properties, and gradients, files and training of LeNEPA."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras.nepa import nepa_loss
from nepa_keras.objectives import LeNepaPretrainer, PatchNepaPretrainer, sigreg
from nepa_keras.training import adamw
from tests.helpers import tiny
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close

SAMPLES = {"batch": 32 * 16, "image": 16}  # that one mean is over
ON_A_GAUSSIAN = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)  # N times the expectation


def lenepa(seed: int = 0, **arguments) -> LeNepaPretrainer:
    """Objective on the tiny backbone, its weights far from 0."""
    keras.utils.set_random_seed(seed)
    backbone = tiny.backbone(dtype=arguments.pop("dtype", None))
    tiny.spread_weights(backbone, seed)
    small = {"projected_dim": 8, "projector_dim": 32, "num_slices": 16, "seed": seed}
    return LeNepaPretrainer(backbone, **{**small, **arguments})


def tokens_and_directions(width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """(32, 16, width) from N(0, I), and 256 directions."""
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((32, 16, width)).astype("float32")
    directions = generator.standard_normal((256, width)).astype("float32")
    return tokens, directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize("over", SAMPLES)
def test_sigreg_is_the_integral_that_defines_it(over):
    """Against complex numbers, seventeen knots and the trapezoid rule, in float64."""
    tokens, directions = tokens_and_directions(4)
    tokens = 0.5 * tokens**2 + 1.0
    t = np.linspace(-5, 5, 17)
    waves = np.exp(1j * (tokens.astype("float64") @ directions.T)[..., None] * t)
    phi = waves.mean(axis=1) if over == "image" else waves.mean(axis=(0, 1))
    normal = np.exp(-0.5 * t**2)
    expected = np.trapezoid(np.abs(phi - normal) ** 2 * normal, t).mean()
    assert float(sigreg(tokens, directions, over)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("over", SAMPLES)
def test_sigreg_is_small_on_a_gaussian_and_large_on_a_collapse(over):
    tokens, directions = tokens_and_directions()
    gaussian = float(sigreg(tokens, directions, over))
    # The mean of 256 slices of 32 numbers: their deviation is a few tenths.
    assert SAMPLES[over] * gaussian == pytest.approx(ON_A_GAUSSIAN, abs=0.4)

    root = math.sqrt(2 * math.pi)
    point = root * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert float(sigreg(0 * tokens, directions, over)) == pytest.approx(point, rel=1e-4)
    wide = root * (1 / 3 - 2 / math.sqrt(6) + 1 / math.sqrt(3))  # of N(0, 4 I), and of few samples:
    wide += root * (1 - 1 / 3) / SAMPLES[over]
    assert float(sigreg(2 * tokens, directions, over)) == pytest.approx(wide, abs=0.02)
    line = tokens[..., :1] * np.eye(32, dtype="float32")[0]
    for collapsed in (0 * tokens, line, 2 * tokens, tokens + 1.0):
        assert float(sigreg(collapsed, directions, over)) > 3 * gaussian
    with pytest.raises(ValueError, match='must be "batch" or "image"'):
        sigreg(tokens, directions, "time")


def test_no_gradient_is_lost():
    """Through predictions and through targets alone; each reaches what it is made of."""
    model, images = lenepa(), ops.convert_to_tensor(tiny.images(4))
    fixed = ops.convert_to_numpy(model.directions(training=True))
    model.directions = lambda training: ops.convert_to_tensor(fixed)

    def gradients(*stopped):
        def loss():
            pairs = model(images)
            for name in stopped:
                pairs[name] = ops.stop_gradient(pairs[name])
            return model.compute_loss(x=images, y_pred=pairs)

        _, found = loss_and_gradients(model, loss)
        return dict(zip((v.path for v in model.trainable_variables), found, strict=True))

    predicted, aimed = gradients("targets"), gradients("predictions")
    for path, gradient in predicted.items():
        if path.endswith("/norm/beta"):  # all predictions have it in common: as the bias below
            assert np.abs(gradient + aimed[path]).max() < 1e-5
            continue
        assert np.abs(gradient).max() > 1e-6 and np.abs(gradient + aimed[path]).max() > 1e-6, path
        # What all targets have in common, such as the bias, their mean takes away.
        reached = "projector/" in path or path.endswith("patch_embedding/kernel")
        assert (np.abs(aimed[path]).max() > 1e-6) == reached, path


@pytest.mark.first_on("torch")
def test_sigreg_stands_in_for_the_stop_gradient():
    """The projected tokens shrink to a point without SIGReg, where nothing is left to predict."""
    spread = {}
    for weight in (0.0, 20.0):
        model = lenepa(sigreg_weight=weight)
        tiny.compile_model(model, adamw(1e-2))
        logs = model.fit(tiny.images(16), batch_size=16, epochs=40, verbose=0).history
        spread[weight] = float(np.std(ops.convert_to_numpy(model(tiny.images(16))["targets"])))
        assert logs["squared_error"][-1] < logs["squared_error"][0]
    assert spread[0.0] < 0.3 and 0.5 < spread[20.0] < 1.5, spread


def test_without_cls_the_loss_is_that_of_the_pairs_of_patches():
    backbone, images = tiny.backbone(), tiny.images(4)
    tiny.spread_weights(backbone)
    whole, patches = nepa_keras.NepaPretrainer(backbone), PatchNepaPretrainer(backbone)
    pairs = whole(images)
    expected = nepa_loss(pairs["predictions"][:, 1:], pairs["targets"][:, 1:])
    found = patches.compute_loss(x=images, y_pred=patches(images))
    assert_close(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), "same_numbers")
    assert tuple(patches(images)["targets"].shape) == (4, 3, 16)
    specification = patches.compute_output_spec(keras.KerasTensor((None, 8, 8, 1)))
    assert tuple(specification["predictions"].shape) == (None, 3, 16)
    unshifted = PatchNepaPretrainer(backbone, shift=False)
    assert tuple(unshifted(images)["targets"].shape) == (4, 4, 16)
    with pytest.raises(ValueError, match="An image of one patch leaves nothing to predict"):
        PatchNepaPretrainer(tiny.backbone(patch_size=8))


def test_it_is_saved_whole_and_written_as_its_backbone(tmp_path):
    model, images = lenepa(sigreg_over="batch", masking_ratio=0.0), tiny.images(8)
    # The gradient of the last bias is rounding, of which a small epsilon would make whole steps.
    tiny.compile_model(model, adamw(1e-2, ema_decay=0.9, epsilon=1e-3))
    model.fit(images, batch_size=8, verbose=0)
    before = model.evaluate(images, batch_size=8, verbose=0)
    assert model.evaluate(images, batch_size=8, verbose=0) == before, "the same directions"
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    assert again.evaluate(images, batch_size=8, verbose=0) == pytest.approx(before, abs=1e-6)
    for each in (model, again):  # the next directions, too, are those that would have come
        each.fit(images, batch_size=8, shuffle=False, verbose=0)
    tiny.assert_same_weights(again, model)

    model.save_to_preset(tmp_path / "ours")
    nepa_keras.interop.export_huggingface(model, tmp_path / "official", ema=True)
    assert nepa_keras.interop.model_class(tmp_path / "ours") is nepa_keras.NepaBackbone
    for folder in ("ours", "official"):
        fresh = LeNepaPretrainer.from_preset(tmp_path / folder, projected_dim=8, num_slices=4)
        plain = nepa_keras.NepaPretrainer.from_preset(tmp_path / folder)
        tiny.assert_same_weights(fresh.backbone, plain.backbone, "exact")
    tiny.assert_same_weights(
        nepa_keras.NepaBackbone.from_preset(tmp_path / "ours"), model.backbone, "exact"
    )


def test_bfloat16_keeps_the_loss_in_float32():
    model, images = lenepa(dtype="mixed_bfloat16"), tiny.images(16)
    loss = model.compute_loss(x=images, y_pred=model(images))
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    exact = lenepa()
    expected = exact.compute_loss(x=images, y_pred=exact(images))
    assert tiny.float_of(loss) == pytest.approx(tiny.float_of(expected), rel=0.03)
    tiny.compile_model(model, adamw(1e-3))
    assert np.isfinite(model.fit(images, batch_size=8, verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sigreg_weight": -1.0}, "sigreg_weight must be 0 or more"),
        ({"sigreg_over": "time"}, 'must be "batch" or "image"'),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        lenepa(**arguments)
