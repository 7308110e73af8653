"""TensorFlow: XLA by default, attention by explicit scores, gradients by GradientTape."""

import inspect
import itertools
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from nepa_keras.backends.portable import (
    adamw_update,
    attention,
    gelu_of,
    global_norm,
    layer_norm,
    linear,
    remat,
    rotate,
)

__all__ = [
    "DEFAULT_JIT_COMPILE",
    "SYNCHRONIZED_BATCH_NORM",
    "adamw_update",
    "attention",
    "barrier",
    "device_name",
    "fit_input",
    "gelu",
    "global_norm",
    "layer_norm",
    "linear",
    "make_function",
    "remat",
    "rotate",
    "train_step",
]

# By erf, as ONNX has no erfc, which Keras' own uses.
gelu = gelu_of(lambda x: 0.5 + 0.5 * tf.math.erf(x * 0.5**0.5))

DEFAULT_JIT_COMPILE = True  # XLA also on CPU, where it is about a third faster
SYNCHRONIZED_BATCH_NORM = True
_MOST_SIZES = 16  # of images, for which compiled functions are kept


def device_name() -> str:
    accelerators = tf.config.list_physical_devices("GPU") + tf.config.list_physical_devices("TPU")
    if not accelerators:
        return "cpu"
    return tf.config.experimental.get_device_details(accelerators[0]).get("device_name", "unknown")


def fit_input(batches):
    """A generator of NumPy batches as a pipeline without autotuning; anything else as it is.

    Keras' own has it on, and then the end of `fit` can wait for minutes until the tuner wakes up.
    """
    if not inspect.isgenerator(batches):
        return batches
    try:
        first = next(batches)
    except StopIteration:
        return batches

    def from_the_first():
        yield first
        yield from batches

    arrays = all(isinstance(leaf, np.ndarray) for leaf in tf.nest.flatten(first))
    if not isinstance(first, tuple | dict) or not arrays:
        return from_the_first()
    signature = tf.nest.map_structure(
        lambda leaf: tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype), first
    )
    dataset = tf.data.Dataset.from_generator(from_the_first, output_signature=signature)
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)


def barrier(x):
    return x


def make_function(model, name, keras_make_function, force=False):
    """Keras' own, one for each size of images: a single one gives up their sizes once it has seen two."""
    if getattr(model, name) is not None and not force:
        return
    functions = {}

    def run(batches):
        batches, sizes = _sizes(batches)
        if sizes not in functions:
            if len(functions) == _MOST_SIZES:
                functions.pop(next(iter(functions)))  # the oldest
            keras_make_function(True)
            functions[sizes] = getattr(model, name)
            setattr(model, name, run)
        return functions[sizes](batches)

    setattr(model, name, run)


def _sizes(batches):
    """What Keras hands to a step function, and the shapes in it without the batch's."""
    if isinstance(batches, Iterator) and not hasattr(batches, "element_spec"):
        first = next(batches)
        batches, specs = itertools.chain([first], batches), first
    else:
        specs = getattr(batches, "element_spec", batches)
    shapes = (getattr(leaf, "shape", None) for leaf in tf.nest.flatten(specs))
    return batches, tuple(str(shape and shape[1:]) for shape in shapes)


def train_step(model, data):
    """One guarded step; returns the logs. Interface: `GuardedModel.record_step`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    variables = model.trainable_variables
    statistics = [(v, tf.identity(v.value)) for v in model.moving_statistics]
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        scaled_loss = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled_loss, [v.value for v in variables])
    learning_rate = tf.identity(model.optimizer.learning_rate)
    norm, ok = _apply(model.optimizer, gradients, variables, loss)
    for variable, old in statistics:
        variable.assign(tf.where(ok, variable.value, old))
    return model.record_step(x, y, y_pred, sample_weight, loss, norm, ok, learning_rate)


def _apply(optimizer, gradients, variables, loss):
    if hasattr(optimizer, "apply_guarded"):
        return optimizer.apply_guarded(gradients, variables, loss)
    norm = global_norm([g for g in gradients if g is not None])
    ok = tf.math.is_finite(norm) & tf.math.is_finite(loss)
    if not optimizer.built:
        optimizer.build(variables)
    state = variables + optimizer.variables
    before = [tf.identity(v.value) for v in state]
    optimizer.apply(gradients, variables)
    for variable, old in zip(state, before, strict=True):
        variable.assign(tf.where(ok, variable.value, old))
    return norm, ok
