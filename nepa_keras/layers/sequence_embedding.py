"""The embedding f for inputs other than images: z_0 (CLS), z_1 ... z_T from any layer that maps to a grid.

B inputs, T grid cells, N = 1 + T tokens, D width.
"""

import math
from typing import Self

import keras
from keras import ops

from nepa_keras.layers.linear import NormalInitializer
from nepa_keras.types import Shape, Tensor


def learned_vector(layer: keras.layers.Layer, name: str, width: int) -> keras.Variable:
    """Add a weight (1, 1, D) to a layer, such as the CLS token."""
    return layer.add_weight(
        shape=(1, 1, width), initializer=NormalInitializer(), name=name, autocast=False
    )


def after_cls(cls_token: Tensor, tokens: Tensor) -> Tensor:
    """Prepend the CLS token: (B, T, D) -> (B, N, D)."""
    cls = ops.broadcast_to(cls_token, (ops.shape(tokens)[0], 1, tokens.shape[-1]))
    return ops.concatenate([cls, tokens], axis=1)


@keras.saving.register_keras_serializable(package="nepa_keras")
class SequenceEmbedding(keras.layers.Layer):
    """The output of a layer as tokens, row by row, after a learned CLS vector.

    NEPA predicts these tokens, so the layer should compute each one from its own part of the input:
        overlapping
    windows or a deep CNN leave less to predict. The output has the variable dtype, as in `PatchEmbedding`.

    Args:
        layer: maps inputs to (B, *grid, D) with one or more grid axes: for example `Conv1D` with stride =
            kernel for a signal, `Conv3D` for a video, `Dense` for feature vectors. A custom layer must have
            `compute_output_shape`.
        use_mask_token: create a learned vector that can replace cells.

    Call arguments:
        inputs: the inputs of `layer`.

    Returns:
        (B, N, D), where T is the product of the grid.

    Example:
        >>> embedding = SequenceEmbedding(keras.layers.Conv1D(64, 16, strides=16))
        >>> tuple(embedding(keras.ops.zeros((2, 800, 1))).shape)
        (2, 51, 64)
    """

    def __init__(self, layer: keras.layers.Layer, use_mask_token: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.use_mask_token = use_mask_token

    def build(self, input_shape: Shape) -> None:
        width = self._layer_output(input_shape)[-1]
        self.cls_token = learned_vector(self, "cls_token", width)
        if not self.layer.built:
            self.layer.build(input_shape)
        self.mask_token = learned_vector(self, "mask_token", width) if self.use_mask_token else None

    def grid(self, input_shape: Shape) -> tuple[int, ...]:
        """Number of cells along each axis for inputs of a shape (with the batch axis).

        Raises:
            ValueError: the layer's output has no grid axis or one of unknown length, or the layer does not
                define its output shape.
        """
        output = self._layer_output(input_shape)
        if len(output) < 3 or not all(output[1:]):
            raise ValueError(
                f"{self.layer.name} maps the shape {tuple(input_shape)} to {tuple(output)}; an embedding "
                "must return (batch, *grid, width), with one or more grid axes of known length."
            )
        return tuple(output[1:-1])

    def _layer_output(self, input_shape: Shape) -> Shape:
        try:
            return self.layer.compute_output_shape(tuple(input_shape))
        except NotImplementedError:
            raise ValueError(
                f"{self.layer.name} does not define its output shape; give its class a method "
                "compute_output_shape(input_shape)."
            ) from None

    def call(self, inputs: Tensor) -> Tensor:
        tokens = self.layer(inputs)
        tokens = ops.reshape(tokens, (-1, *self._flat(inputs.shape)))
        return after_cls(self.cls_token, ops.cast(tokens, self.variable_dtype))

    def _flat(self, input_shape: Shape) -> tuple[int, int]:
        return math.prod(self.grid(input_shape)), self._layer_output(input_shape)[-1]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        cells, width = self._flat(input_shape)
        return (input_shape[0], 1 + cells, width)

    def compute_output_spec(self, inputs: Tensor, **kwargs) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), self.variable_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "use_mask_token": self.use_mask_token,
        }

    @classmethod
    def from_config(cls, config: dict) -> Self:
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})
