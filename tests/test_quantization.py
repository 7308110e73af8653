"""`quantize("int8")`: real integers in the file, nearly the same outputs, and no training around them."""

import keras
import numpy as np
import pytest

import nepa_keras
from nepa_keras.layers import Linear
from tests.helpers import tiny

IMAGES = tiny.images(4, (16, 16, 3))
# Wide enough that the kernels of the dense layers are nearly all of the file.
WIDE = dict(
    image_shape=(16, 16, 3),
    patch_size=4,
    hidden_dim=192,
    num_layers=2,
    num_heads=4,
    mlp_dim=768,
    layer_scale=0.5,
)
MODELS = {
    "backbone": lambda backbone: backbone,
    "pretrainer": nepa_keras.NepaPretrainer,
    "classifier": lambda backbone: nepa_keras.NepaImageClassifier(backbone, 10),
    "segmenter": lambda backbone: nepa_keras.NepaImageSegmenter(backbone, 3, head="linear"),
}


def wide_model(kind="backbone", **overrides):
    model = MODELS[kind](nepa_keras.NepaBackbone(**(WIDE | overrides)))
    for head in ("head", "decode_head"):  # they start at zero or nearly so
        if isinstance(layer := getattr(model, head, None), keras.layers.Layer):
            value = np.random.default_rng(0).standard_normal(layer.kernel.shape)
            layer.weights[0].assign(value.astype("float32"))
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_int8_is_small_and_near(kind, tmp_path):
    model = wide_model(kind)
    expected = model.predict(IMAGES, verbose=0)
    model.save(tmp_path / "float.keras")
    model.quantize("int8")
    linear = [layer for layer in model._flatten_layers() if isinstance(layer, Linear)]
    assert len(linear) == 8 + (kind == "classifier")
    assert {layer._kernel.dtype for layer in linear} == {"int8"}
    found = model.predict(IMAGES, verbose=0)
    assert 0 < tiny.relative_distance(found, expected) < 0.02
    model.save(tmp_path / "int8.keras")
    small, large = ((tmp_path / f"{name}.keras").stat().st_size for name in ("int8", "float"))
    assert small < 0.3 * large
    again = keras.saving.load_model(tmp_path / "int8.keras")
    assert tiny.relative_distance(again.predict(IMAGES, verbose=0), found) == 0
    assert again.count_params() == model.count_params()


def test_a_part_can_be_quantized(tmp_path):
    model = wide_model("classifier")
    model.quantize("int8", filters=lambda layer: "/mlp/" in (layer.path or ""))
    for layer in model._flatten_layers():
        if isinstance(layer, Linear):
            assert layer._kernel.dtype == ("int8" if "/mlp/" in layer.path else "float32")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.dtype for v in again.weights] == [v.dtype for v in model.weights]
    expected = model.predict(IMAGES, verbose=0)
    assert tiny.relative_distance(again.predict(IMAGES, verbose=0), expected) == 0


def test_mixed_precision_can_be_quantized():
    model = wide_model("classifier", dtype="mixed_bfloat16")
    expected = model.predict(IMAGES, verbose=0)
    model.quantize("int8")
    assert tiny.relative_distance(model.predict(IMAGES, verbose=0), expected) < 0.03


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tiny.compile_model(model, nepa_keras.training.adamw(1e-2), loss=loss)
    return model


def test_training_is_refused_in_one_sentence():
    model = compiled(wide_model("classifier"))
    model.quantize("int8")
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(
            ValueError, match="is quantized to int8, so its kernel cannot be trained"
        ):
            train(IMAGES, np.arange(4))
    assert np.isfinite(model.evaluate(IMAGES, np.arange(4), verbose=0))


def test_adapters_train_on_an_integer_backbone(tmp_path):
    """Training as in QLoRA: the kernels stay, and the file holds both."""
    backbone = wide_model()
    backbone.quantize("int8")
    backbone.enable_lora(4)
    model = compiled(nepa_keras.NepaImageClassifier(backbone, 4))
    before = {v.path: tiny.float_of(v) for v in model.weights}
    losses = model.fit(IMAGES, np.arange(4), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    moved = {v.path for v in model.weights if np.any(tiny.float_of(v) != before[v.path])}
    assert moved == {v.path for v in model.trainable_variables}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.predict(IMAGES, verbose=0)
    assert tiny.relative_distance(again.predict(IMAGES, verbose=0), expected) == 0


def test_integers_are_no_preset(tmp_path):
    model = wide_model()
    model.quantize("int8")
    with pytest.raises(ValueError, match="are not floats"):
        model.save_to_preset(tmp_path)
