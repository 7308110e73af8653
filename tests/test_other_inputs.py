"""NEPA on what is no image: any layer that makes embeddings, positions on one, two or three axes."""

import json

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

import nepa_keras
from nepa_keras.interop import export_huggingface
from nepa_keras.layers.rotary import frequencies, grid_coordinates
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close

SIGNAL, FRAMES, VIDEO, MAPS = (48, 2), (9, 5), (4, 8, 8, 3), (3, 4, 6)
INPUTS = {
    "signal": (SIGNAL, lambda: layers.Conv1D(24, 8, strides=8), (6,)),
    "feature vectors": (FRAMES, lambda: layers.Dense(24), (9,)),
    "feature maps": (
        MAPS,
        lambda: keras.Sequential([layers.LayerNormalization(), layers.Dense(24)]),
        (3, 4),
    ),
    "video": (VIDEO, lambda: layers.Conv3D(24, (2, 4, 4), strides=(2, 4, 4)), (2, 2, 2)),
}
ALL = pytest.mark.parametrize("shape, embedding, grid", INPUTS.values(), ids=INPUTS)


def pretrainer(shape, embedding, **arguments):
    arguments = {"hidden_dim": 24, "mlp_dim": 32, **arguments}
    return tiny.pretrainer(image_shape=shape, embedding=embedding(), **arguments)


@pytest.mark.first_on("torch")
@ALL
def test_other_inputs_train_save_and_classify(shape, embedding, grid, tmp_path):
    model = pretrainer(
        shape,
        embedding,
        use_mask_token=True,
        masking_ratio=0.2,
        rope_extent=3.0,
        position_embedding="learned",
    )
    inputs = tiny.images(8, shape)
    out = model(inputs)
    assert model.backbone.patch_embedding.grid((None, *shape)) == grid
    assert out["targets"].shape == (8, np.prod(grid), 24)
    before = tiny.weights(model)
    tiny.compile_model(model, nepa_keras.training.adamw(1e-2, ema_decay=0.9))
    model.fit(inputs, batch_size=4, epochs=2, verbose=0)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(ops.convert_to_numpy(variable) != old), variable.path
    loss = model.evaluate(inputs, verbose=0)["loss"]
    assert -1.0 <= loss <= 1.0

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(inputs, verbose=0)["loss"] == pytest.approx(loss, abs=1e-6)
    model.save_to_preset(tmp_path / "preset")
    classifier = nepa_keras.NepaImageClassifier.from_preset(tmp_path / "preset", num_classes=3)
    assert classifier(inputs).shape == (8, 3)
    taken = nepa_keras.NepaBackbone.from_preset(tmp_path / "preset")
    expected = ops.convert_to_numpy(model.backbone(inputs)["sequence_output"])
    assert_close(ops.convert_to_numpy(taken(inputs)["sequence_output"]), expected, "exact")


@ALL
def test_no_token_sees_what_comes_after_it(shape, embedding, grid):
    """Row by row over all axes, the first changed input is the first that changes an output."""
    model = pretrainer(shape, embedding)
    inputs = tiny.images(1, shape)
    changed = inputs.copy()
    changed[:, -1] += 1.0  # of the first axis
    first = np.prod(grid) - np.prod(grid[1:], dtype=int)  # cell that holds it
    one, two = (
        ops.convert_to_numpy(model.backbone(x)["sequence_output"])[0] for x in (inputs, changed)
    )
    different = np.abs(one - two).max(axis=-1) > 0
    assert not different[: 1 + first].any() and different[1 + first :].any()


SAME = {"hidden_dim": 16, "mlp_dim": 24}


def test_a_patch_embedding_made_of_a_convolution_is_the_patch_embedding():
    """The image case, said in both ways: the same numbers from the same weights."""
    ours = tiny.pretrainer(**SAME)
    theirs = pretrainer((8, 8, 1), lambda: layers.Conv2D(16, 4, strides=4, name="conv2d"), **SAME)
    values = {v.path.split("/", 1)[1]: v for v in ours.backbone.trainable_variables}
    for variable in theirs.backbone.trainable_variables:
        variable.assign(values[variable.path.split("/", 1)[1].replace("/conv2d", "")])
    images = tiny.images(4)
    for name, value in ours(images).items():
        actual = ops.convert_to_numpy(theirs(images)[name])
        assert_close(actual, ops.convert_to_numpy(value), "same_numbers", name)


def test_a_clone_has_what_is_not_trained_too():
    """A frozen embedding, and moving statistics that are not those of the start."""
    norm = layers.BatchNormalization()
    frozen = keras.Sequential([layers.Dense(24, trainable=False), norm])
    backbone = pretrainer(FRAMES, lambda: frozen).backbone
    norm.moving_mean.assign(np.linspace(-1, 1, 24))
    inputs = tiny.images(2, FRAMES)
    expected = ops.convert_to_numpy(backbone(inputs)["sequence_output"])
    clone = nepa_keras.clone_backbone(backbone)
    assert_close(ops.convert_to_numpy(clone(inputs)["sequence_output"]), expected, "exact")


def test_a_preset_runs_no_code_of_its_author(tmp_path):
    """A function in the place of the embedding, as a hostile configuration may have one."""
    pretrainer(FRAMES, lambda: layers.Dense(24)).save_to_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with keras.saving.custom_object_scope({}):
        lambda_layer = layers.Lambda(lambda x: x)
    config["backbone"]["embedding"] = keras.saving.serialize_keras_object(lambda_layer)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"safe_mode|arbitrary code|unsafe"):
        nepa_keras.NepaBackbone.from_preset(tmp_path)


class WithoutAShape(layers.Layer):
    def call(self, x):
        return ops.concatenate([x] * 5, axis=-1)[..., :24]


def test_frequencies_and_coordinates_of_other_axes():
    """Angles by hand: one axis has every pair of the width, three axes a third of them, rounded down."""
    np.testing.assert_allclose(frequencies(8, 100.0, axes=1), 100.0 ** -(np.arange(4) / 4))
    np.testing.assert_allclose(frequencies(8, 100.0, axes=3), [1.0])
    np.testing.assert_allclose(grid_coordinates((4,))[:, 0], [-0.75, -0.25, 0.25, 0.75])
    assert grid_coordinates((2, 3, 4)).shape == (24, 3)
    np.testing.assert_allclose(grid_coordinates((2, 1, 2))[1], [-0.5, 0.0, 0.5])
    layer = nepa_keras.layers.RotaryEmbedding(8, axes=3, rescale=None)
    cos, sin = (ops.convert_to_numpy(t) for t in layer(grid=(2, 2, 2)))
    np.testing.assert_array_equal(cos[:, 3], 1.0, err_msg="the fourth pair is left as it is")
    np.testing.assert_array_equal(sin[:, 3], 0.0)
    assert np.all(sin[1:, :3] != 0.0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"embedding": layers.Dense(8)}, "width 8, but hidden_dim is 24"),
        ({"embedding": layers.GlobalAveragePooling1D()}, "one or more grid axes of known length"),
        ({"embedding": WithoutAShape()}, "does not define its output shape"),
        ({"embedding": layers.Dense(24), "num_heads": 8}, "2-D RoPE needs a head width"),
        ({"embedding": layers.Dense(24), "rope_extent": 0.0}, "extent must be above 0"),
    ],
)
def test_errors_name_the_remedy(arguments, words):
    shape = MAPS if arguments.get("num_heads") else FRAMES
    with pytest.raises(ValueError, match=words):
        tiny.backbone(**{"image_shape": shape, "hidden_dim": 24, **arguments})


def test_the_official_format_refuses_it(tmp_path):
    model = pretrainer(FRAMES, lambda: layers.Dense(24))
    with pytest.raises(ValueError, match="keep the model with save_to_preset"):
        export_huggingface(model, tmp_path / "official")


def test_an_embedding_keeps_its_place_in_files_and_checkpoints(tmp_path):
    """First of the variables, which checkpoints number, and one of `layers` in a `.keras` file."""
    backbone = nepa_keras.NepaBackbone(
        image_shape=(16, 2),
        embedding=keras.layers.Conv1D(16, 4, strides=4, name="windows"),
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        mlp_dim=8,
    )
    assert backbone.variables[0].path.endswith("patch_embedding/windows/kernel")
    backbone.save_weights(tmp_path / "it.weights.h5")
    with h5py.File(tmp_path / "it.weights.h5") as file:
        assert file["layers/conv1d/vars/0"].shape == (4, 2, 16)
    clone = nepa_keras.clone_backbone(backbone)
    assert clone.embedding.name == "windows" and clone.embedding is not backbone.embedding
