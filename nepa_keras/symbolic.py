"""Symbolic `input` and `output` of subclassed models, as Keras' functional models have them."""

import functools
from typing import Any

import keras

from nepa_keras.presets import backbone_of


class Symbolic(keras.Model):
    """A model with symbolic input and output, created on first access.

    They are for images of the size that the model is built with. For images of any size, where the backend
    supports it: `x = keras.Input((None, None, 3))`, `keras.Model(x, model(x))`.

    Example:
        >>> features = keras.Model(backbone.input, backbone.output["sequence_output"])
        >>> features.output_shape
        (None, 50, 32)
    """

    @functools.cached_property  # bypasses `__setattr__`, so that Keras does not track or save it
    def _symbolic(self) -> tuple[keras.KerasTensor, Any]:
        images = keras.Input(backbone_of(self).image_shape, name="images")
        return images, self(images)

    @property
    def input(self) -> keras.KerasTensor:
        """Symbolic images (None, height, width, channels)."""
        return self._symbolic[0]

    @property
    def output(self) -> Any:
        """Result of `call` on `input`, in the same structure."""
        return self._symbolic[1]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """List of the one `input`."""
        return [self.input]

    @property
    def outputs(self) -> list[keras.KerasTensor]:
        """Flat list of the tensors in `output`."""
        return keras.tree.flatten(self.output)

    def __dir__(self):
        # Keras and TensorFlow read all attributes when they save; that must not call the model.
        return [n for n in super().__dir__() if n not in ("input", "output", "inputs", "outputs")]
