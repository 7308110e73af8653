"""`input` and `output` of a model that is written as a class, as Keras' functional models have them."""

import functools
from typing import Any

import keras

from nepa_keras.presets import backbone_of


class Symbolic(keras.Model):
    """A model with symbolic input and output, made when they are first asked for.

    The images are of the size that the model is built with. For any size, as far as the backend can:
    `x = keras.Input((None, None, 3))`, `keras.Model(x, model(x))`.

    Example:
        >>> features = keras.Model(backbone.input, backbone.output["sequence_output"])
    """

    @functools.cached_property  # past `__setattr__`, so that nothing of it is tracked or saved
    def _symbolic(self) -> tuple[keras.KerasTensor, Any]:
        images = keras.Input(backbone_of(self).image_shape, name="images")
        return images, self(images)

    @property
    def input(self) -> keras.KerasTensor:
        """Images (None, height, width, channels)."""
        return self._symbolic[0]

    @property
    def output(self) -> Any:
        """What `call` makes of `input`, in the same structure."""
        return self._symbolic[1]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The one `input`."""
        return [self.input]

    @property
    def outputs(self) -> list[keras.KerasTensor]:
        """The tensors of `output`, flat."""
        return keras.tree.flatten(self.output)

    def __dir__(self):
        # Keras and TensorFlow look at each attribute when they save, which must not call the model.
        return [n for n in super().__dir__() if n not in ("input", "output", "inputs", "outputs")]
