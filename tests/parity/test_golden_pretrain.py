"""States, attention, loss and gradients of the two pretraining models against the official code."""

import keras
import numpy as np
import pytest

import nepa_keras
from tests.helpers import golden_files
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close, assert_same_tensors

pytestmark = pytest.mark.xla

FOLDERS = ("pretrain_gelu", "pretrain_gated")


@pytest.mark.parametrize("folder", FOLDERS)
def test_parameters_have_the_official_names_and_shapes(folder):
    """Loaded tensors come back unchanged, and the model holds no others."""
    model = golden_files.pretrainer(folder)
    weights = golden_files.tensors(f"{folder}/weights.safetensors")
    tensors = nepa_keras.interop.official_tensors(model)
    assert sorted(tensors) == sorted(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)
    assert model.count_params() == golden_files.record(f"{folder}/meta.json")["parameter_count"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_states_and_attention(folder):
    """Embeddings, what enters and leaves each block, probabilities, final state."""
    model = golden_files.pretrainer(folder)
    io = golden_files.tensors(f"{folder}/io.safetensors")
    found = model.backbone.activations(golden_files.images(folder))
    to_numpy = keras.ops.convert_to_numpy
    assert_close(to_numpy(found["embeddings"]), io["input_embedding"], "states", "input_embedding")
    assert len(found["hidden_states"]) == 1 + model.backbone.num_layers
    for i, state in enumerate(found["hidden_states"]):
        assert_close(to_numpy(state), io[f"hidden.{i}"], "states", f"hidden.{i}")
    assert len(found["attentions"]) == model.backbone.num_layers
    for i, probabilities in enumerate(found["attentions"]):
        assert_close(to_numpy(probabilities), io[f"attn.{i}"], "attention", f"attn.{i}")
    last = to_numpy(found["sequence_output"])
    assert_close(last, io["last_hidden_state"], "states", "last_hidden_state")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_fast_path_of_call_gives_the_same_states(folder):
    """`call` uses the backend's fused attention where `activations` writes it out."""
    model = golden_files.pretrainer(folder)
    io = golden_files.tensors(f"{folder}/io.safetensors")
    images = golden_files.images(folder)
    for training_free in (model.backbone(images), model.backbone.predict(images, verbose=0)):
        for key, name in (
            ("embeddings", "input_embedding"),
            ("sequence_output", "last_hidden_state"),
        ):
            value = keras.ops.convert_to_numpy(training_free[key])
            assert_close(value, io[name], "states", name)
    maps = model.backbone.intermediates(images, reshape=True)
    for i, found in enumerate(maps, start=1):
        value = keras.ops.convert_to_numpy(found)
        assert_close(
            value.reshape(len(value), -1, value.shape[-1]), io[f"hidden.{i}"][:, 1:], "states"
        )


@pytest.mark.parametrize("folder", FOLDERS)
def test_predictions_and_targets_are_shifted_by_one(folder):
    """CLS predicts the first patch; the last token predicts nothing."""
    model = golden_files.pretrainer(folder)
    io = golden_files.tensors(f"{folder}/io.safetensors")
    out = model(golden_files.images(folder))
    predictions = keras.ops.convert_to_numpy(out["predictions"])
    targets = keras.ops.convert_to_numpy(out["targets"])
    assert_close(predictions, io["last_hidden_state"][:, :-1], "states", "predictions")
    assert_close(targets, io["input_embedding"][:, 1:], "states", "targets")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_loss_is_that_of_the_reference(folder):
    """The loss computed from `call`, and as `evaluate` reports it."""
    model = golden_files.pretrainer(folder)
    expected = golden_files.tensors(f"{folder}/io.safetensors")["loss"][0]
    images = golden_files.images(folder)
    out = model(images)
    loss = float(nepa_keras.nepa_loss(out["predictions"], out["targets"]))
    assert_close(loss, expected, "pretrain_loss")
    model.compile(optimizer="sgd")
    assert_close(model.evaluate(images, verbose=0)["loss"], expected, "pretrain_loss")


@pytest.mark.parametrize("folder", FOLDERS)
def test_gradients_tensor_by_tensor(folder):
    """Gradients of every parameter, relative to the largest value in that tensor."""
    model = golden_files.pretrainer(folder)
    images = keras.ops.convert_to_tensor(golden_files.images(folder))

    def loss():
        return model.compute_loss(x=images, y_pred=model(images))

    value, gradients = loss_and_gradients(model, loss)
    io = golden_files.tensors(f"{folder}/io.safetensors")
    assert_close(value, io["loss"][0], "pretrain_loss")
    assert_same_tensors(
        nepa_keras.interop.official_gradients(model, gradients),
        golden_files.tensors(f"{folder}/grads.safetensors"),
        "gradient",
    )


def test_training_forward_with_the_rescale_factor_of_the_reference(monkeypatch):
    """One training-mode pass; the drawn factor is put in place of the layer's own draw."""
    io = golden_files.tensors("pretrain_gelu/io.safetensors")
    factor = io["train_rescale.factor"][0]
    limits = []

    def drawn(layer, shape, limit):
        limits.append(limit)
        return keras.ops.full(shape, np.log(factor), dtype="float32")

    monkeypatch.setattr(nepa_keras.layers.RotaryEmbedding, "_uniform", drawn)
    model = golden_files.pretrainer("pretrain_gelu")
    cos, sin = model.backbone.rotary(grid=(4, 4), training=True)
    assert_close(keras.ops.convert_to_numpy(cos)[1:], io["train_rescale.cos"], "rope", "cos")
    assert_close(keras.ops.convert_to_numpy(sin)[1:], io["train_rescale.sin"], "rope", "sin")

    limits.clear()
    out = model(golden_files.images("pretrain_gelu"), training=True)
    assert limits == [pytest.approx(np.log(2.0))], "one draw for the whole batch"
    loss = float(nepa_keras.nepa_loss(out["predictions"], out["targets"]))
    assert_close(loss, io["train_rescale.loss"][0], "pretrain_loss")
    predictions = keras.ops.convert_to_numpy(out["predictions"])
    expected = io["train_rescale.last_hidden_state"]
    assert_close(predictions, expected[:, :-1], "states", "train_rescale.last_hidden_state")
    evaluated = model(golden_files.images("pretrain_gelu"))
    assert len(limits) == 1, "no rescale outside training"
    assert_close(
        keras.ops.convert_to_numpy(evaluated["predictions"]),
        io["last_hidden_state"][:, :-1],
        "states",
    )
