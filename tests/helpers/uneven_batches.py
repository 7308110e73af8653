"""Batches that the devices do not divide, on many devices and on one: the largest differences, as JSON.

python -m tests.helpers.uneven_batches OUT DEVICES
"""

import json
import os
import sys
from pathlib import Path

out, devices = sys.argv[1:]
backend = os.environ["KERAS_BACKEND"]
if backend == "jax":
    import jax

    jax.config.update("jax_num_cpu_devices", int(devices))
import keras  # noqa: E402
import numpy as np  # noqa: E402

if backend == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(devices),
    )

import nepa_keras  # noqa: E402
from tests.helpers import tiny  # noqa: E402

IMAGES = tiny.images(22)
ARRAYS = {
    "pretrainer": (IMAGES,),
    "classifier": (IMAGES, np.arange(22) % 3),
    "segmenter": (IMAGES, np.random.default_rng(0).integers(0, 3, (22, 8, 8))),
}
# A device without an image is refused there for segmenters.
FEWER = {("tensorflow", "segmenter"): 21}


def model_of(kind: str) -> nepa_keras.task.Task:
    model = tiny.pretrainer()
    loss = {}
    if kind == "classifier":
        model = nepa_keras.NepaImageClassifier(model.backbone, 3)
        loss = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    if kind == "segmenter":
        model = nepa_keras.NepaImageSegmenter(model.backbone, 3, head="linear")
    tiny.spread_weights(model)
    tiny.compile_model(model, keras.optimizers.SGD(1e-2), **loss)
    return model


def results(kind: str) -> list[np.ndarray]:
    """Losses, weights, scores and outputs of batches of 7, 7, 7 and 1 image."""
    model, number = model_of(kind), FEWER.get((backend, kind), 22)
    arrays = [x[:number] for x in ARRAYS[kind]]
    history = model.fit(*arrays, batch_size=7, epochs=2, shuffle=False, verbose=0).history
    scores = model.evaluate(*arrays, batch_size=7, verbose=0, return_dict=True)
    outputs = [
        model.predict(IMAGES[:n], batch_size=7, verbose=0) for n in (number % 7 or 7, number)
    ]
    return [
        np.array(history["loss"]),
        np.array(scores["loss"]),
        *tiny.weights(model),
        *map(np.asarray, keras.tree.flatten(outputs)),
    ]


assert nepa_keras.distribute().devices == int(devices)
differences = {}
for kind in ARRAYS:
    many = results(kind)
    with nepa_keras.backends.single_process():
        one = results(kind)
    assert [a.shape for a in many] == [a.shape for a in one]
    differences[kind] = max(float(np.max(np.abs(a - b))) for a, b in zip(many, one, strict=True))
Path(out).write_text(json.dumps(differences))
if backend == "tensorflow":  # last, as it ends all of the process
    try:
        model_of("segmenter").fit(*(x[:1] for x in ARRAYS["segmenter"]), verbose=0)
    except tf.errors.InvalidArgumentError as error:
        assert "A device has no image" in str(error), error
    else:
        raise AssertionError("not refused")
