"""A model that trains on many devices, as one that measures, exports and saves like any other."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from nepa_keras import backends
from nepa_keras.training.model_state import model_state, restore_state


@contextmanager
def on_one_device(model: keras.Model) -> Iterator[keras.Model]:
    """Inside the block: a copy with the weights, optimizer and averages of `model`, on one device.

    Whatever is made, run or trained in the block is of this process alone, so batches may have any size and
    processes need not do the same. All processes must enter it together, outside of a step. Without many
    devices it is the model itself.

    Args:
        model: compiled.
    """
    if not backends.is_distributed():
        yield model
        return
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    state = model_state(model)
    with backends.single_process():
        # One copy, as it has to be compiled; not as an attribute, or it were part of the model.
        copy = model.__dict__.get("copy_on_one_device")
        if copy is None:
            copy = type(model).from_config(model.get_config())
            copy.compile_from_config(model.get_compile_config())
            model.__dict__["copy_on_one_device"] = copy
        restore_state(copy, state)
        yield copy
