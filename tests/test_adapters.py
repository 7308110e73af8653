"""Low-rank adapters: only they train, and their sum with the kernels is what is written for others."""

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras import interop
from nepa_keras.training import LayerwiseWarmupCosine, adamw, ema_weights
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close

OPTIMIZERS = {
    "adamw": lambda: adamw(1e-2, ema_decay=0.5),
    "layerwise": lambda: adamw(LayerwiseWarmupCosine(1e-2, 10, 2, 0.75, warmup_steps=0)),
    "keras": lambda: keras.optimizers.SGD(0.1),
}
IMAGES, LABELS = tiny.images(8), np.arange(8) % 3


def adapted_classifier(optimizer="adamw", rank=2, **overrides):
    """A compiled classifier whose weights are far from their start, but for the adapters."""
    model = nepa_keras.NepaImageClassifier(tiny.backbone(**overrides), 3)
    tiny.spread_weights(model)
    model.backbone.enable_lora(rank)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tiny.compile_model(model, OPTIMIZERS[optimizer](), loss=loss)
    return model


def fit(model, epochs=1):
    model.fit(IMAGES, LABELS, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def logits(model):
    return ops.convert_to_numpy(model(IMAGES))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_adapters_and_head_move(optimizer):
    model = adapted_classifier(optimizer, gated_mlp=True)
    before = [tiny.float_of(v) for v in model.weights]
    fit(model, 2)
    for variable, old in zip(model.weights, before, strict=True):
        trains = "/lora_kernel_" in variable.path or variable.path.startswith(("head", "fc_norm"))
        assert variable.trainable == trains, variable.path
        assert np.any(tiny.float_of(variable) != old) == trains, variable.path
    adapters = [v for v in model.trainable_variables if "lora" in v.path]
    assert len(adapters) == 2 * 2 * 5  # two matrices of two blocks' qkv, output, gate, up and down


def test_new_adapters_change_nothing_and_are_the_same_on_every_backend():
    backbone = tiny.pretrainer().backbone
    expected = tiny.float_of(backbone(IMAGES)["sequence_output"])
    keras.utils.set_random_seed(7)
    backbone.enable_lora(3)
    assert_close(tiny.float_of(backbone(IMAGES)["sequence_output"]), expected, "same_numbers")
    qkv = backbone.blocks[0].attention.qkv
    first_row = [-0.24247545, 0.29016873, -0.12811755]
    np.testing.assert_allclose(tiny.float_of(qkv.lora_kernel_a)[0], first_row, rtol=1e-6)
    with pytest.raises(ValueError, match="are added once"):
        backbone.enable_lora(3)


def test_the_table_has_each_variable_once_in_its_block():
    model = adapted_classifier("layerwise")
    table = model.optimizer.table(model)
    rows = {line[:22].strip(): line[22:].split() for line in table.splitlines()[1:]}
    assert int(rows["block 0 matrices"][0]) == int(rows["block 1 matrices"][0]) == 8
    assert float(rows["block 0 matrices"][-1]) == 0.05  # adapters are matrices, which decay
    assert int(rows["all"][0]) == len(model.weights)
    assert int(rows["all"][1].replace(",", "")) == model.count_params()


def test_merged_weights_give_the_same_logits(tmp_path):
    """Merged adapters in a preset and in the official format, for trained and averaged weights."""
    model = adapted_classifier()
    fit(model, 3)
    model.save_to_preset(tmp_path / "ours")
    interop.export_huggingface(model, tmp_path / "official")
    for folder in ("ours", "official"):
        plain = nepa_keras.NepaImageClassifier.from_preset(tmp_path / folder)
        assert plain.backbone.lora_rank is None
        assert not [v.path for v in plain.weights if "lora" in v.path]
        assert_close(logits(plain), logits(model), "logits")
    adapted = nepa_keras.NepaImageClassifier.from_preset(tmp_path / "ours", lora_rank=4)
    assert adapted.backbone.lora_rank == 4
    assert_close(logits(adapted), logits(model), "logits")
    with ema_weights(model):
        interop.export_huggingface(model, tmp_path / "ema")
        expected = logits(model)
    assert np.abs(expected - logits(model)).max() > 1e-3
    assert_close(
        logits(nepa_keras.NepaImageClassifier.from_preset(tmp_path / "ema")), expected, "logits"
    )


def test_save_and_load_continue_the_same_run(tmp_path):
    """The file keeps adapters apart, with the optimizer's slots of them."""
    model = adapted_classifier()
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits(again), logits(model))
    for each in (model, again):
        fit(each)
    tiny.assert_same_weights(again, model)


def test_weights_without_adapters_are_loaded_into_a_model_that_has_some(tmp_path):
    model = adapted_classifier()
    plain = nepa_keras.NepaImageClassifier(tiny.backbone(), 3)
    tiny.spread_weights(plain, seed=1)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model.load_weights(tmp_path / "plain.weights.h5")
    assert_close(logits(model), logits(plain), "same_numbers")
    before = tiny.weights(model)
    fit(model, 2)
    assert all(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))


def test_a_clone_has_the_adapters():
    model = adapted_classifier()
    fit(model, 2)
    clone = nepa_keras.clone_backbone(model.backbone)
    expected = tiny.float_of(model.backbone(IMAGES)["sequence_output"])
    np.testing.assert_array_equal(tiny.float_of(clone(IMAGES)["sequence_output"]), expected)
