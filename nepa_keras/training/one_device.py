"""A single-device copy of a model that trains on many devices, for evaluation, export and saving."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from nepa_keras import backends
from nepa_keras.training.model_state import model_state, restore_state


@contextmanager
def on_one_device(model: keras.Model) -> Iterator[keras.Model]:
    """Give a copy of the model on one device, with its weights, optimizer and averages.

    Everything made or run inside the block belongs to this process alone: batches may have any size, and
    processes may do different things. All processes must enter it together, outside a step. Without many
    devices it is the model itself.

    Args:
        model: compiled.

    Example:
        >>> with on_one_device(model) as single:
        ...     single.save_to_preset("backbone")
    """
    if not backends.is_distributed():
        yield model
        return
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    state = model_state(model)
    with backends.single_process():
        # Reused, as it is compiled; kept in __dict__, so that Keras does not take it for a part.
        copy = model.__dict__.get("copy_on_one_device")
        if copy is None:
            copy = type(model).from_config(model.get_config())
            copy.compile_from_config(model.get_compile_config())
            model.__dict__["copy_on_one_device"] = copy
        restore_state(copy, state)
        yield copy
