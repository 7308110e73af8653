"""Averaged (EMA) weights in place of the trained ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops


@contextmanager
def ema_weights(model: keras.Model) -> Iterator[keras.Model]:
    """Give the model its EMA weights inside the block; the trained weights come back on exit.

    Args:
        model: compiled with `adamw(..., ema_decay=...)` and trained for at least one step.

    Raises:
        ValueError: the optimizer keeps no averages, or has made no step.

    Example:
        >>> history = model.fit(images, batch_size=8, verbose=0)
        >>> with ema_weights(model):
        ...     results = model.evaluate(images, verbose=0)
    """
    averages = getattr(model.optimizer, "averages", None)
    if not averages or int(model.optimizer.iterations) == 0:
        raise ValueError(
            "The model has no averaged weights: compile it with adamw(..., ema_decay=...) and "
            "train at least one step."
        )
    variables = model.optimizer.trainable_variables
    trained = [ops.convert_to_numpy(v) for v in variables]
    try:
        for variable, average in zip(variables, averages, strict=True):
            variable.assign(ops.convert_to_numpy(average))
        yield model
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)
