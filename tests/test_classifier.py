"""Fine-tuning a classifier with plain `compile` and `fit`."""

import inspect

import keras
import numpy as np
from keras import ops

import nepa_keras
from nepa_keras.training import adamw
from tests.helpers import tiny


def test_classifier_fine_tunes_with_plain_compile_and_fit():
    """A separable toy: the mean of the image decides the class."""
    generator = np.random.default_rng(0)
    labels = np.arange(24) % 3
    images = (labels - 1.0)[:, None, None, None] + 0.3 * generator.standard_normal((24, 8, 8, 1))
    model = nepa_keras.NepaImageClassifier(tiny.pretrainer().backbone, num_classes=3)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(images[:2])), 0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tiny.compile_model(model, optimizer=adamw(1e-2, beta_2=0.999), loss=loss, metrics=["accuracy"])
    backbone_before = tiny.weights(model.backbone)
    history = model.fit(images, labels, batch_size=8, epochs=15, verbose=0).history
    assert {"loss", "accuracy", "gradient_norm", "learning_rate", "skipped_steps"} == set(history)
    result = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(result) == {"loss", "accuracy"} and result["accuracy"] > 0.9
    assert any(
        np.any(a != b) for a, b in zip(backbone_before, tiny.weights(model.backbone), strict=True)
    )


def test_compile_takes_its_arguments_as_keras_does():
    ours, theirs = (
        [p.replace(annotation=p.empty) for p in inspect.signature(kind.compile).parameters.values()]
        for kind in (nepa_keras.NepaImageClassifier, keras.Model)
    )
    assert ours == theirs
    model = nepa_keras.NepaImageClassifier(tiny.backbone(), num_classes=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, None, ["accuracy"])
    history = model.fit(tiny.images(4), np.arange(4) % 3, verbose=0).history
    assert "accuracy" in history and np.isfinite(history["loss"]).all()


def test_classifier_with_sample_weights_and_a_frozen_backbone():
    """A weight of 0 takes an example out; what is not trainable stays."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = tiny.images(8), np.arange(8) % 3
    trained = []
    for x, y, w in (
        (images, labels, np.array([1.0] * 4 + [0.0] * 4, "float32")),
        (
            np.concatenate([images[:4], -images[4:]]),
            labels,
            np.array([1.0] * 4 + [0.0] * 4, "float32"),
        ),
    ):
        model = nepa_keras.NepaImageClassifier(tiny.pretrainer().backbone, num_classes=3)
        model.backbone.trainable = False
        tiny.compile_model(model, optimizer=adamw(1e-2), loss=loss)
        frozen = [np.array(ops.convert_to_numpy(v)) for v in model.backbone.weights]
        model.fit(x, y, sample_weight=w, batch_size=8, verbose=0)
        for before, variable in zip(frozen, model.backbone.weights, strict=True):
            if "seed" not in variable.path:
                np.testing.assert_array_equal(ops.convert_to_numpy(variable), before)
        assert len(model.trainable_variables) == 4
        trained.append(model)
    tiny.assert_same_weights(*trained)
