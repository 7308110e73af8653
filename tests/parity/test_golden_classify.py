"""The classifier against the official code: pooling, logits, three losses, gradients, drop path."""

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from tests.helpers import golden_files
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close, assert_same_tensors

pytestmark = pytest.mark.xla


@pytest.fixture
def io():
    return golden_files.tensors("classify/io.safetensors")


def soft_cross_entropy(smoothing: float = 0.0):
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)


def test_states_pooling_and_logits(io):
    model = golden_files.classifier()
    images = golden_files.images("classify")
    found = model.backbone.activations(images, causal=model.use_causal_mask)
    for i, state in enumerate(found["hidden_states"]):
        assert_close(ops.convert_to_numpy(state), io[f"hidden.{i}"], "states", f"hidden.{i}")
    for i, probabilities in enumerate(found["attentions"]):
        assert_close(ops.convert_to_numpy(probabilities), io[f"attn.{i}"], "attention", f"attn.{i}")
    last = found["sequence_output"]
    assert_close(ops.convert_to_numpy(last), io["last_hidden_state"], "states", "last_hidden_state")
    mean = ops.mean(last[:, 1:], axis=1)
    assert_close(ops.convert_to_numpy(mean), io["pooled_mean"], "states", "pooled_mean")
    assert_close(ops.convert_to_numpy(model.fc_norm(mean)), io["pooled"], "states", "pooled")
    assert_close(ops.convert_to_numpy(model(images)), io["logits"], "logits")
    assert_close(model.predict(images, verbose=0), io["logits"], "logits", "predict")
    assert model.count_params() == golden_files.record("classify/meta.json")["parameter_count"]


@pytest.mark.parametrize("epsilon", [1e-12, 1e-2])
def test_its_own_norm_has_the_epsilon_of_the_configuration(epsilon, io):
    """Logits of the official formula in NumPy, from the official pooled states and weights."""
    weights = golden_files.tensors("classify/weights.safetensors")
    mean = io["pooled_mean"].astype("float64")
    centred = mean - mean.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    normed = normed * weights["fc_norm.weight"] + weights["fc_norm.bias"]
    logits = normed @ weights["classifier.weight"].T + weights["classifier.bias"]
    model = golden_files.classifier(layer_norm_epsilon=epsilon)
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    for classifier in (model, again):
        assert classifier.fc_norm.get_config()["epsilon"] == epsilon
        found = classifier.head(classifier.fc_norm(io["pooled_mean"]))
        assert_close(ops.convert_to_numpy(found), logits, "logits")
    if epsilon == 1e-12:
        assert_close(logits, io["logits"], "logits")


def test_soft_hard_and_smoothed_losses(io):
    """Keras' own losses, as a user would compile them."""
    model = golden_files.classifier()
    images = golden_files.images("classify")
    hard = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Keras smooths the target, t (1 - s) + s / K: by linearity the official function's own form.
    cases = (
        ("loss", soft_cross_entropy(), io["targets"]),
        ("loss_smoothing0.1", soft_cross_entropy(0.1), io["targets"]),
        ("loss_hard", hard, io["labels"]),
    )
    for name, loss, targets in cases:
        model.compile(optimizer="sgd", loss=loss)
        value = model.evaluate(images, targets, verbose=0, return_dict=True)["loss"]
        assert_close(value, io[name][0], "classify_loss", name)


def test_gradients_tensor_by_tensor(io):
    model = golden_files.classifier()
    images = ops.convert_to_tensor(golden_files.images("classify"))
    targets = ops.convert_to_tensor(io["targets"])
    model.compile(optimizer="sgd", loss=soft_cross_entropy())

    def loss():
        return model.compute_loss(x=images, y=targets, y_pred=model(images))

    value, gradients = loss_and_gradients(model, loss)
    assert_close(value, io["loss"][0], "classify_loss")
    assert_same_tensors(
        nepa_keras.interop.official_gradients(model, gradients),
        golden_files.tensors("classify/grads.safetensors"),
        "gradient",
    )


def test_drop_path_with_the_masks_of_the_reference(io, monkeypatch):
    """Rates, logits, loss and gradients of a training pass whose kept samples are given."""
    drawn = golden_files.tensors("classify/droppath_io.safetensors")
    model = golden_files.classifier(drop_path_rate=0.4, rope_rescale=None)
    asked = []

    def keep_mask(layer, batch_size):
        branch = 0 if layer.name == "attention_drop" else 1
        block = next(
            i
            for i, b in enumerate(model.backbone.blocks)
            if layer in (b.attention_drop, b.mlp_drop)
        )
        asked.append((block, branch))
        return ops.convert_to_tensor(drawn["keep_masks"][block, branch])

    monkeypatch.setattr(nepa_keras.layers.DropPath, "keep_mask", keep_mask)
    rates = [b.attention_drop.rate if b.attention_drop else 0.0 for b in model.backbone.blocks]
    assert_close(rates, drawn["rates"], "drop_path_rates")
    assert rates == [b.mlp_drop.rate if b.mlp_drop else 0.0 for b in model.backbone.blocks]

    images = ops.convert_to_tensor(golden_files.images("classify"))
    targets = ops.convert_to_tensor(io["targets"])
    model.compile(optimizer="sgd", loss=soft_cross_entropy())
    logits = model(images, training=True)
    assert asked == [(1, 0), (1, 1), (2, 0), (2, 1)], "the first block has rate 0 and draws nothing"
    assert_close(ops.convert_to_numpy(logits), drawn["logits"], "logits")

    def loss():
        return model.compute_loss(x=images, y=targets, y_pred=model(images, training=True))

    value, gradients = loss_and_gradients(model, loss)
    assert_close(value, drawn["loss"][0], "classify_loss")
    expected = golden_files.tensors("classify/droppath_grads_1d.safetensors")
    tensors = nepa_keras.interop.official_gradients(model, gradients)
    assert_same_tensors({name: tensors[name] for name in expected}, expected, "gradient")


def test_drop_path_rates_grow_linearly():
    """The official rates of the three architectures of the table."""
    tables = golden_files.record("schedules.json")["drop_path_rates"]
    assert len(tables) == 3
    for name, expected in tables.items():
        _, layers, _, rate = name.split("_")
        backbone = nepa_keras.NepaBackbone(
            (8, 8, 1), 4, 8, int(layers), 2, 8, drop_path_rate=float(rate)
        )
        rates = [b.attention_drop.rate if b.attention_drop else 0.0 for b in backbone.blocks]
        assert_close(rates, expected, "drop_path_rates", name)


def test_last_token_pooling(io):
    """A head without pooling: the last token, not CLS, straight into the linear layer."""
    backbone = golden_files.backbone("classify")
    model = nepa_keras.NepaImageClassifier(backbone, 10, pooling="last")
    weights = dict(golden_files.tensors("classify/weights.safetensors"))
    for name in ("fc_norm.weight", "fc_norm.bias"):
        del weights[name]
    nepa_keras.interop.load_official_tensors(model, weights)
    expected = (
        io["last_hidden_state"][:, -1] @ weights["classifier.weight"].T + weights["classifier.bias"]
    )
    logits = ops.convert_to_numpy(model(golden_files.images("classify")))
    assert_close(logits, expected, "logits")
