"""`intermediates`: features of any blocks as tokens or maps, eagerly and as a part of functional models."""

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from tests.helpers import tiny
from tests.helpers.artefacts import FORMAT, run_exported
from tests.helpers.tolerances import assert_close

SHAPE = (8, 12, 1)  # 2 x 3 patches, and not the size that the model is built with
IMAGES = tiny.images(4, SHAPE)


def by_hand(backbone, images, causal) -> list[np.ndarray]:
    """Outputs of the blocks, computed one layer after another; each (B, N, D)."""
    x, states = backbone.patch_embedding(images), []
    rope = backbone.rotary(grid=(2, 3))
    for block in backbone.blocks:
        x = block(x, rope=rope, causal=causal)
        states.append(tiny.float_of(x))
    return states


@pytest.mark.parametrize("causal", [True, False])
def test_they_are_the_blocks_one_after_another(causal):
    backbone = tiny.pretrainer(num_layers=3).backbone
    states = by_hand(backbone, IMAGES, causal)
    found = backbone.intermediates(IMAGES, causal=causal)
    assert len(found) == 3
    for number, patches in enumerate(found):
        assert_close(tiny.float_of(patches), states[number][:, 1:], "same_numbers")
    last, first = backbone.intermediates(IMAGES, (-1, 0), reshape=True, causal=causal)
    assert tuple(last.shape) == (4, 2, 3, 16)
    assert_close(tiny.float_of(last), states[2][:, 1:].reshape(4, 2, 3, 16), "same_numbers")
    assert_close(tiny.float_of(first), states[0][:, 1:].reshape(4, 2, 3, 16), "same_numbers")
    patches, cls = backbone.intermediates(IMAGES, -1, norm=True, cls_token=True, causal=causal)
    expected = tiny.float_of(backbone(IMAGES, causal=causal)["sequence_output"])
    assert_close(tiny.float_of(patches), expected[:, 1:], "same_numbers")
    assert_close(tiny.float_of(cls), expected[:, 0], "same_numbers")


def test_blocks_behind_the_last_one_do_not_run():
    backbone = tiny.backbone()
    backbone.blocks[1].call = None
    assert tuple(backbone.intermediates(IMAGES, 0).shape) == (4, 6, 16)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (2, "There is no block 2: this backbone has 2, from 0 to 1, or .* from -1 to -2"),
        ((0, -3), "There is no block -3"),
        ((), "blocks is empty"),
        (0.5, "must be a whole number or several, got 0.5"),
        ("1", "must be a whole number or several, got '1'"),
    ],
)
def test_blocks_that_are_not_there_are_refused(blocks, message):
    for images in (IMAGES, keras.Input(SHAPE)):
        with pytest.raises(ValueError, match=message):
            tiny.backbone().intermediates(images, blocks)


def dense(backbone, size=SHAPE[:2]) -> keras.Model:
    """A value for each patch, of the maps of three blocks and the CLS token of another."""
    x = keras.Input((*size, 1))
    maps = backbone.intermediates(x, (0, 1, -1), reshape=True, causal=False)
    _, cls = backbone.intermediates(x, -1, norm=True, cls_token=True, causal=False)
    maps = keras.layers.Concatenate()(maps) + keras.layers.Dense(48)(cls)[:, None, None]
    return keras.Model(x, keras.layers.Conv2D(1, 1)(maps))


def test_a_functional_model_of_them_trains_is_saved_and_exported(tmp_path):
    backbone = tiny.pretrainer(drop_path_rate=0.1).backbone
    model = dense(backbone)
    assert tuple(model.output.shape) == (None, 2, 3, 1)
    assert len(model.trainable_variables) == len(backbone.trainable_variables) + 4
    before = tiny.weights(backbone)
    tiny.compile_model(model, keras.optimizers.SGD(1e-3), loss="mse")
    targets = IMAGES.reshape(4, 2, 4, 3, 4).mean(axis=(2, 4))[..., None]
    losses = model.fit(IMAGES, targets, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert any(np.any(a != b) for a, b in zip(before, tiny.weights(backbone), strict=True))
    expected = model.predict(IMAGES, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_close(again.predict(IMAGES, verbose=0), expected, "same_numbers")
    assert len(again.trainable_variables) == len(model.trainable_variables)
    model.export(tmp_path / "exported", format=FORMAT, verbose=False)
    (found,) = run_exported(tmp_path / "exported", IMAGES)
    assert_close(found, expected, "same_numbers")


def test_a_functional_model_of_them_takes_images_of_any_size():
    backbone = tiny.pretrainer().backbone
    model = dense(backbone, (None, None))
    assert tuple(model.output.shape) == (None, None, None, 1)
    for shape in ((8, 8, 1), SHAPE):
        images = tiny.images(2, shape)
        found = model.predict(images, verbose=0)
        assert found.shape == (2, shape[0] // 4, shape[1] // 4, 1)
        assert_close(found, tiny.float_of(model(images)), "same_numbers")


def test_maps_of_other_inputs_have_the_axes_of_their_grid():
    backbone = nepa_keras.NepaBackbone(
        image_shape=(32, 2),
        embedding=keras.layers.Conv1D(16, 4, strides=4),
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        mlp_dim=16,
    )
    assert tuple(backbone.intermediates(ops.ones((3, 32, 2)), 0, reshape=True).shape) == (3, 8, 16)
    symbolic = backbone.intermediates(backbone.input, (0,), reshape=True)
    assert [tuple(each.shape) for each in symbolic] == [(None, 8, 16)]
