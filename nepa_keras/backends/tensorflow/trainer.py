"""TensorFlow: the training step by GradientTape, compiled by XLA, on several devices by tf.distribute."""

import functools
import inspect
import itertools
import os
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from nepa_keras.backends import portable
from nepa_keras.backends.compiled_code import folder_of_processor
from nepa_keras.backends.guard import GuardedOptimizer, is_rate
from nepa_keras.backends.portable import global_norm
from nepa_keras.backends.tensorflow.devices import (
    distribute_batches,
    global_batch_size,
    is_distributed,
    mean_over_replicas,
    process,
    replicas,
)

_MOST_SIZES = 16  # number of image sizes whose compiled functions are kept

Model = keras.Model


class Trainer(keras.Model):
    """`keras.Model` with a guarded training step; `nepa_keras.task.Task` has the methods it calls."""

    def fit(self, x=None, *args, **kwargs):
        return super().fit(_without_autotuning(self, x), *args, **kwargs)

    def make_train_function(self, force=False):
        self._make_for_each_size("train_function", super().make_train_function, force)

    def make_test_function(self, force=False):
        self._make_for_each_size("test_function", super().make_test_function, force)

    def make_predict_function(self, force=False):
        self._make_for_each_size("predict_function", super().make_predict_function, force)

    def _make_for_each_size(self, name, keras_make_function, force):
        """Create one Keras function per image size; a shared one would get dynamic sizes."""
        if getattr(self, name) is not None and not force:
            return
        functions: dict = {}  # compiled functions by image sizes

        def run(batches):
            batches, sizes = _sizes(batches)
            if sizes not in functions:
                if name == "train_function":
                    _build_optimizer(self)
                if len(functions) == _MOST_SIZES:
                    functions.pop(next(iter(functions)))  # the oldest
                keras_make_function(True)
                functions[sizes] = getattr(self, name)
                setattr(self, name, run)
            return functions[sizes](batches)

        setattr(self, name, run)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Build the model by one replica's batch: Keras averages over parts, which may differ in length."""
        if iterator is not None and self._distribute_strategy is not None:
            _, _, batches = next(iter(iterator))
            strategy = self.distribute_strategy
            data_batch = keras.tree.map_structure(
                lambda parts: strategy.experimental_local_results(parts)[0], next(batches)
            )
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def train_step(self, data):
        """Run one guarded step; return the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        statistics = [(v, tf.identity(v.value)) for v in self.moving_statistics]
        with tf.GradientTape() as tape:
            y_pred = self(_not_empty(self, x), training=True)
            loss = _loss(self, x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = _mean_gradients(tape.gradient(scaled_loss, [v.value for v in variables]))
        loss = mean_over_replicas(loss)
        learning_rate = tf.identity(self.optimizer.learning_rate)
        norm, ok = _apply(self.optimizer, gradients, variables, loss, learning_rate)
        for variable, old in statistics:
            variable.assign(tf.where(ok, variable.value, old))
        logs = self.record_step(x, y, y_pred, sample_weight, loss, norm, ok, learning_rate)
        return _for_workers(logs)

    def test_step(self, data):
        """Run Keras' step, but average the losses of replicas, where Keras takes them for shares of a sum."""
        if not is_distributed():
            return super().test_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(_not_empty(self, x), training=False)
        loss = _loss(self, x, y, y_pred, sample_weight, training=False)
        self._loss_tracker.update_state(mean_over_replicas(loss), global_batch_size(_images(x)))
        return _for_workers(self.compute_metrics(x, y, y_pred, sample_weight))


def _without_autotuning(model, batches):
    """Turn a generator of NumPy batches into a pipeline without autotuning; return other data unchanged.

    With many devices the generator gives the batches of this process, which are split between its devices.
    Keras enables autotuning, and then the end of `fit` can wait for minutes until the tuner wakes up.
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
    size = len(tf.nest.flatten(first)[0]) if is_distributed() else None
    signature = tf.nest.map_structure(
        lambda leaf: tf.TensorSpec((size, *leaf.shape[1:]), leaf.dtype), first
    )
    dataset = tf.data.Dataset.from_generator(from_the_first, output_signature=signature)
    dataset = _not_tuned(dataset.prefetch(2))
    if not is_distributed():
        return dataset
    model._symbolic_build(data_batch=keras.tree.map_structure(ops.convert_to_tensor, first))
    # Reset to the strategy of the process; otherwise Keras would consume a batch to build the model.
    model._distribute_strategy = None
    return distribute_batches(dataset)


def _build_optimizer(model):
    """Create the optimizer's variables outside of the compiled step, if the model is built.

    Created inside, each takes two graphs to initialise, which TensorFlow never frees, and a second trace.
    """
    built = all(layer.built for layer in model._flatten_layers())
    if built and not model.optimizer.built and not is_distributed():
        model.optimizer.build(model.trainable_variables)


def _sizes(batches):
    """Return the batches for a step function, and their shapes without the batch axis."""
    if isinstance(batches, Iterator) and not hasattr(batches, "element_spec"):
        first = next(batches)
        batches, specs = itertools.chain([first], batches), first
    else:
        specs = getattr(batches, "element_spec", batches)
    shapes = (getattr(leaf, "shape", None) for leaf in tf.nest.flatten(specs))
    return batches, tuple(str(shape and shape[1:]) for shape in shapes)


def _loss(model, x, y, y_pred, sample_weight, training):
    """Loss of this replica as its share of the global loss.

    Keras divides a loss given to `compile` by the number of replicas; that is undone here. A mean over images
    is weighted by the replica's number of images, which may differ between replicas and may be 0.
    """
    loss = model.compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )
    if replicas() == 1:
        return loss
    loss = loss * replicas() if model.loss is not None else loss
    if not model.loss_is_mean_over_images:
        return loss
    return tf.math.multiply_no_nan(loss, _images(x) / mean_over_replicas(_images(x)))


def _not_empty(model, x):
    """Check that this replica has images: TensorFlow's convolutions fail for none on CPU."""
    if replicas() == 1 or model.loss_is_mean_over_images:
        return x
    message = (
        f"A device has no image of a batch; make the batch size and the number of images multiples of "
        f"{replicas()}, the number of devices."
    )
    with tf.control_dependencies([tf.debugging.assert_positive(_images(x), message)]):
        return tf.nest.map_structure(tf.identity, x)


def _images(x):
    return tf.cast(tf.shape(tf.nest.flatten(x)[0])[0], "float32")


def _mean_gradients(gradients):
    present = [i for i, gradient in enumerate(gradients) if gradient is not None]
    means = mean_over_replicas([gradients[i] for i in present])
    means = dict(zip(present, means, strict=True))
    return [means.get(i) for i in range(len(gradients))]


def _for_workers(logs):
    """Add the axis that Keras averages over, together with all workers."""
    return {k: tf.reshape(v, [1]) for k, v in logs.items()} if process()[1] > 1 else logs


def _apply(optimizer, gradients, variables, loss, learning_rate):
    if isinstance(optimizer, GuardedOptimizer):
        return optimizer.apply_guarded(gradients, variables, loss)
    norm = global_norm([g for g in gradients if g is not None])
    ok = tf.math.is_finite(norm) & tf.math.is_finite(loss) & is_rate(learning_rate)
    if not optimizer.built:
        optimizer.build(variables)
    state = variables + optimizer.variables
    before = [tf.identity(v.value) for v in state]
    if replicas() > 1 and (optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue):
        raise ValueError(
            "On TensorFlow, Keras' optimizers clip before the gradients of devices are summed, which differs "
            "from one device; use nepa_keras.training.adamw(clip_norm=...)."
        )
    # Keras sums over the replicas.
    gradients = [g if g is None else g / replicas() for g in gradients]
    optimizer.apply(gradients, variables)
    for variable, old in zip(state, before, strict=True):
        variable.assign(tf.where(ok, variable.value, old))
    return norm, ok


def default_jit_compile() -> bool:
    """Return True for one device: XLA is a third faster on CPU too, but cannot compile a distributed step."""
    return not is_distributed()


_CACHE = "--tf_xla_persistent_cache_directory"


def keep_compiled(folder) -> None:
    """Cache compiled code in a folder, unless TF_XLA_FLAGS names one.

    TensorFlow reads the setting when it first lists its devices.
    """
    given = os.environ.get("TF_XLA_FLAGS", "")
    if _CACHE not in given:
        os.environ["TF_XLA_FLAGS"] = f"{given} {_CACHE}={folder_of_processor(folder)}".strip()


def sync(model) -> None:
    """Do nothing: the variables are the state."""


def first_batch(batches, number):
    if isinstance(batches, list) and is_distributed():  # from `predict`, split by device
        parts = tf.distribute.get_strategy().experimental_local_results(batches[0])
        return keras.tree.map_structure(lambda *x: np.concatenate(x), *parts), batches
    if not isinstance(batches, tf.data.Iterator):  # with an element_spec it is a distributed one
        return (
            (None, batches)
            if hasattr(batches, "element_spec")
            else portable.first_batch(batches, number)
        )
    taken = list(itertools.islice(batches, number))
    if not taken:
        return None, batches
    again = functools.reduce(tf.data.Dataset.concatenate, map(_of_one_batch, taken))
    # Keep the specification (a fixed batch size, any image size): another one would be compiled anew.
    if again.element_spec != batches.element_spec:
        again = tf.data.Dataset.from_generator(lambda: taken, output_signature=batches.element_spec)
    return keras.tree.map_structure(ops.convert_to_numpy, taken[0]), iter(_not_tuned(again))


def _of_one_batch(batch):
    """Make a pipeline of one batch with a dynamic batch size; faster to create than from a generator."""
    size = tf.nest.flatten(batch)[0].shape[0]
    return tf.data.Dataset.from_tensor_slices(batch).batch(size)


def _not_tuned(dataset):
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
