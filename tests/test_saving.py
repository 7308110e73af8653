"""`save`, `load_model`, weights files and clones: every argument, the optimizer, and the same next steps."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras.training import WarmupCosine, adamw, ema_weights
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close


def plain(config: dict) -> dict:
    """A configuration as it is after a file: tuples are lists."""
    return json.loads(json.dumps(config))


@pytest.mark.parametrize("extra", [{}, {"accumulation_steps": 2}])
def test_save_and_load_continue_the_same_run(tmp_path, extra):
    """Model, optimizer, schedule position and average: three more steps are the same."""
    optimizer = adamw(WarmupCosine(1e-2, 20, warmup_steps=2), ema_decay=0.9, **extra)
    model = tiny.compiled_pretrainer(
        optimizer=optimizer,
        gated_mlp=True,
        qk_norm_scale=True,
        use_mask_token=True,
    )
    images = tiny.images(12)
    model.fit(images, batch_size=4, shuffle=False, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    assert type(again) is nepa_keras.NepaPretrainer
    assert plain(again.get_config()) == plain(model.get_config())
    assert plain(again.optimizer.get_config()) == plain(model.optimizer.get_config())
    tiny.assert_same_weights(again, model)
    for a, b in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(b), ops.convert_to_numpy(a), a.path)
    for each in (model, again):
        each.fit(images, batch_size=4, shuffle=False, verbose=0)
    tiny.assert_same_weights(again, model)
    for a, b in zip(model.optimizer.ema_values(), again.optimizer.ema_values(), strict=True):
        assert_close(b, a, "same_numbers")
    with ema_weights(again):
        assert (
            again.evaluate(images, verbose=0)["loss"] != model.evaluate(images, verbose=0)["loss"]
        )


def test_save_and_load_every_argument(tmp_path):
    """Every argument of the three models survives, also those off their default."""
    backbone = nepa_keras.NepaBackbone(
        image_shape=(8, 12, 2),
        patch_size=4,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        mlp_dim=24,
        gated_mlp=True,
        activation="gelu",
        qkv_bias=False,
        qk_norm=True,
        qk_norm_scale=True,
        qk_norm_bias=True,
        layer_scale=None,
        drop_path_rate=0.1,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        use_causal_mask=False,
        use_mask_token=True,
        rope_theta=50.0,
        rope_rescale=None,
        rope_shift=0.1,
        rope_jitter=1.5,
        layer_norm_epsilon=1e-6,
        remat=True,
        position_embedding="learned",
    )
    images = tiny.images(2, (8, 12, 2))
    models = {
        "backbone": backbone,
        "pretrainer": nepa_keras.NepaPretrainer(
            backbone, shift=False, stop_gradient=False, masking_ratio=0.5
        ),
        "classifier": nepa_keras.NepaImageClassifier(
            backbone, 5, pooling="last", use_causal_mask=True
        ),
    }
    for name, model in models.items():
        tiny.spread_weights(model)
        model.save(tmp_path / f"{name}.keras")
        again = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert plain(again.get_config()) == plain(model.get_config()), name
        expected, found = model.predict(images, verbose=0), again.predict(images, verbose=0)
        keras.tree.map_structure(lambda a, b: assert_close(b, a, "same_numbers"), expected, found)


def test_weights_file_round_trip(tmp_path):
    first, second = tiny.pretrainer(seed=1), tiny.pretrainer(seed=2)
    first.save_weights(tmp_path / "w.weights.h5")
    second.load_weights(tmp_path / "w.weights.h5")
    tiny.assert_same_weights(second, first)


def test_clone_keeps_weights_and_is_independent():
    backbone = tiny.pretrainer(use_mask_token=True).backbone
    clone = nepa_keras.clone_backbone(
        backbone,
        use_causal_mask=False,
        drop_path_rate=0.2,
        qk_norm_scale=True,
        use_mask_token=False,
    )
    images = tiny.images(2)
    expected = ops.convert_to_numpy(backbone(images, causal=False)["sequence_output"])
    assert_close(ops.convert_to_numpy(clone(images)["sequence_output"]), expected, "same_numbers")
    for variable in clone.trainable_variables:
        variable.assign(variable * 0.0)
    unchanged = ops.convert_to_numpy(backbone(images, causal=False)["sequence_output"])
    np.testing.assert_array_equal(unchanged, expected)
