"""Mixed precision: float32 weights and loss, the float16 loss scale, and the policy in a file."""

import keras
import numpy as np
import pytest

import nepa_keras
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(policy):
    """Weights, embeddings, outputs and loss stay float32; the loss is near that of float32."""
    exact, model = tiny.compiled_pretrainer(), tiny.compiled_pretrainer(dtype=policy)
    assert model.dtype_policy.name == policy
    for variable in model.trainable_variables:
        assert variable.dtype == "float32", variable.path
    images = tiny.images(16)
    out = model.backbone(images)
    for name, value in out.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", name
    before = tiny.weights(model)
    history = model.fit(images, batch_size=8, epochs=8, shuffle=False, verbose=0).history
    reference = exact.fit(images, batch_size=8, epochs=8, shuffle=False, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert history["loss"][-1] < history["loss"][0] - 0.05
    assert_close(history["loss"], reference["loss"], "bfloat16_curve")
    # bfloat16 keeps 8 bits; the norm shown is that of the loss, whatever the loss scale.
    np.testing.assert_allclose(history["gradient_norm"], reference["gradient_norm"], rtol=0.2)
    assert any(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))


def test_float16_scales_the_loss_and_recovers_from_an_overflow():
    """A scale too large is halved by each skipped step until the gradients are finite."""
    model = tiny.compiled_pretrainer(dtype="mixed_float16")
    start = float(model.optimizer.loss_scale)
    assert start > 1.0
    model.train_on_batch(tiny.images(4))
    model.optimizer.loss_scale.assign(2.0**30)
    skipped = 0.0
    for seed in range(30):
        logs = model.train_on_batch(tiny.images(4, seed=seed), return_dict=True)
        skipped += logs["skipped_steps"]
    assert 0 < skipped < 25
    assert float(model.optimizer.loss_scale) == 2.0 ** (30 - skipped)
    assert int(model.optimizer.iterations) == 31 - skipped
    assert all(np.all(np.isfinite(w)) for w in tiny.weights(model))


def test_float32_and_bfloat16_do_not_scale_the_loss():
    for policy in ("float32", "mixed_bfloat16"):
        assert tiny.compiled_pretrainer(dtype=policy).optimizer.loss_scale is None


def test_pure_bfloat16_trains_and_is_saved(tmp_path):
    """All weights in bfloat16, which halves memory: the loss falls as in float32, within its rounding."""
    exact, model = tiny.compiled_pretrainer(), tiny.compiled_pretrainer(dtype="bfloat16")
    assert {v.dtype for v in model.trainable_variables} == {"bfloat16"}
    images = tiny.images(16)
    assert keras.backend.standardize_dtype(model(images)["predictions"].dtype) == "bfloat16"
    history = model.fit(images, batch_size=8, epochs=4, shuffle=False, verbose=0).history
    reference = exact.fit(images, batch_size=8, epochs=4, shuffle=False, verbose=0).history
    # 8 bits of mantissa for weights of 0.3 and updates of 0.01.
    np.testing.assert_allclose(history["loss"], reference["loss"], atol=0.02)
    np.testing.assert_allclose(history["gradient_norm"], reference["gradient_norm"], rtol=0.2)

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.backbone.dtype_policy.name == "bfloat16"
    model.backbone.save_to_preset(tmp_path / "preset")
    preset = nepa_keras.NepaBackbone.from_preset(tmp_path / "preset")
    for other in (again.backbone, preset):
        for a, b in zip(other.weights, model.backbone.weights, strict=True):
            if "seed_generator" not in a.path:
                np.testing.assert_array_equal(tiny.float_of(a), tiny.float_of(b), a.path)


def test_mixed_precision_survives_saving(tmp_path):
    model = tiny.pretrainer(dtype="mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.dtype_policy.name == again.backbone.dtype_policy.name == "mixed_bfloat16"
    assert again.backbone.blocks[0].mlp.dtype_policy.name == "mixed_bfloat16"
