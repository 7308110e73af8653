"""`fit`, `evaluate` and `predict` of a pretrainer, from every source of batches and with any optimizer."""

import importlib.util
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras.training import WarmupCosine, adamw
from tests.helpers import tiny
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close

# Sources of data: all that this environment can make, so that none is skipped.


def arrays(images):
    return {"x": images, "batch_size": 4, "shuffle": False}


def arrays_with_labels(images):
    return {**arrays(images), "y": np.arange(len(images))}


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return len(self.images) // 4

    def __getitem__(self, index):
        return self.images[4 * index : 4 * index + 4]


def py_dataset(images):
    return {"x": Batches(images), "shuffle": False}


def torch_loader(images):
    import torch

    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images))
    return {"x": torch.utils.data.DataLoader(dataset, batch_size=4)}


def torch_loader_with_labels(images):
    import torch

    labels = torch.arange(len(images))
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images), labels)
    return {"x": torch.utils.data.DataLoader(dataset, batch_size=4)}


def tf_data(images):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices(images).batch(4)}


def tf_data_with_labels(images):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices((images, np.arange(len(images)))).batch(4)}


SOURCES: list[Callable] = [arrays, arrays_with_labels, py_dataset]
if importlib.util.find_spec("torch"):
    SOURCES += [torch_loader, torch_loader_with_labels]
if importlib.util.find_spec("tensorflow"):
    SOURCES += [tf_data, tf_data_with_labels]


def test_fit_gives_the_same_weights_from_every_source():
    """NumPy, PyDataset, PyTorch loaders and tf.data, with labels (ignored) and without."""
    images = tiny.images(12)
    reference = None
    for source in SOURCES:
        model = tiny.compiled_pretrainer()
        history = model.fit(**source(images), epochs=2, verbose=0).history
        assert set(history) == tiny.LOGS, source.__name__
        assert int(model.optimizer.iterations) == 6, source.__name__
        if reference is None:
            reference = model
        tiny.assert_same_weights(model, reference)


def test_fit_learns_and_reports():
    model = tiny.compiled_pretrainer(
        optimizer=adamw(WarmupCosine(2e-2, 30, warmup_steps=3), ema_decay=0.9)
    )
    images = np.repeat(np.repeat(tiny.images(16, (2, 2, 1)), 4, axis=1), 4, axis=2)
    history = model.fit(
        images, batch_size=8, epochs=15, verbose=0, validation_data=(images[:8],)
    ).history
    assert set(history) == tiny.LOGS | {"val_loss", "val_prediction_spread", "val_target_spread"}
    assert history["loss"][-1] < history["loss"][0] - 0.3
    rates = [model.optimizer._learning_rate.at(step) for step in range(1, 30, 2)]
    np.testing.assert_allclose(history["learning_rate"], rates, rtol=1e-4)
    assert all(0.0 <= value <= 1.0 + 1e-6 for value in history["target_spread"])
    assert history["skipped_steps"] == [0.0] * 15


def test_evaluate_predict_and_batches():
    model = tiny.compiled_pretrainer()
    images = tiny.images(10)
    out = model(images)
    expected = float(nepa_keras.nepa_loss(out["predictions"], out["targets"]))
    evaluated = model.evaluate(images, batch_size=4, verbose=0)
    assert set(evaluated) == {"loss", "prediction_spread", "target_spread"}
    assert evaluated["loss"] == pytest.approx(expected, abs=1e-6), "10 is not a multiple of 4"
    predicted = model.predict(images, batch_size=4, verbose=0)
    assert set(predicted) == {"predictions", "targets"}
    for name, value in predicted.items():
        assert_close(value, ops.convert_to_numpy(out[name]), "same_numbers", name)
    expected = float(nepa_keras.nepa_loss(out["predictions"][:4], out["targets"][:4]))
    tested = model.test_on_batch(images[:4], return_dict=True)
    assert tested["loss"] == pytest.approx(expected, abs=1e-6)
    trained = model.train_on_batch(images[:4], return_dict=True)
    assert set(trained) == tiny.LOGS
    assert trained["loss"] == pytest.approx(expected, abs=1e-6), "the loss before the update"


def test_gradient_norm_is_that_of_the_loss_before_clipping():
    model = tiny.compiled_pretrainer(optimizer=adamw(0.0, clip_norm=1e-3))
    images = ops.convert_to_tensor(tiny.images(4))
    _, gradients = loss_and_gradients(
        model, lambda: model.compute_loss(x=images, y_pred=model(images))
    )
    expected = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
    logs = model.train_on_batch(images, return_dict=True)
    assert logs["gradient_norm"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_any_keras_optimizer(name):
    model = tiny.compiled_pretrainer(optimizer=keras.optimizers.get(name))
    before = tiny.weights(model)
    history = model.fit(tiny.images(8), batch_size=4, verbose=0).history
    assert set(history) == tiny.LOGS and np.isfinite(history["gradient_norm"][0])
    assert any(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))
