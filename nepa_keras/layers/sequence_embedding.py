"""f for anything that is no image: z_0 (CLS), z_1 ... z_T from a layer that makes one embedding per cell.

B batch, T cells, D width.
"""

import math
from typing import Self

import keras
from keras import ops

from nepa_keras.layers.linear import NormalInitializer
from nepa_keras.types import Shape, Tensor


def learned_vector(layer: keras.layers.Layer, name: str, width: int) -> keras.Variable:
    """A weight (1, 1, D) of a layer, such as CLS."""
    return layer.add_weight(
        shape=(1, 1, width), initializer=NormalInitializer(), name=name, autocast=False
    )


def after_cls(cls_token: Tensor, tokens: Tensor) -> Tensor:
    """(B, T, D) -> (B, 1 + T, D)."""
    cls = ops.broadcast_to(cls_token, (ops.shape(tokens)[0], 1, tokens.shape[-1]))
    return ops.concatenate([cls, tokens], axis=1)


@keras.saving.register_keras_serializable(package="nepa_keras")
class SequenceEmbedding(keras.layers.Layer):
    """The output of a layer as tokens, row by row, after a learned CLS vector.

    The tokens are what NEPA predicts, so the layer should see each cell alone: one that also sees the next
    cell (overlapping windows, a deep CNN) leaves less to predict. The result is kept in the variable dtype,
    as that of `PatchEmbedding`.

    Args:
        layer: makes (B, *grid, D) of its inputs, with one, two, three or more axes in the grid, as `Conv1D`
            with its kernel as stride of a signal, `Conv3D` of a video, `Dense` of feature vectors. A layer of
            your own says what it makes by `compute_output_shape`.
        use_mask_token: whether a learned vector can stand in for masked cells.

    Call arguments:
        inputs: what `layer` takes.

    Returns:
        (B, 1 + T, D), in which T is the product of the grid.

    Example:
        >>> embedding = SequenceEmbedding(keras.layers.Conv1D(64, 16, strides=16))
        >>> embedding(keras.ops.zeros((2, 800, 1))).shape
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
        """Cells along each axis for inputs of a shape with the batch.

        Raises:
            ValueError: the layer has no axis between batch and width, or one of unknown length, or does not
            say which shape it makes.
        """
        output = self._layer_output(input_shape)
        if len(output) < 3 or not all(output[1:]):
            raise ValueError(
                f"{self.layer.name} makes {tuple(output)} of {tuple(input_shape)}; an embedding makes "
                "(batch, *grid, width) with an axis or more of known length in the grid."
            )
        return tuple(output[1:-1])

    def _layer_output(self, input_shape: Shape) -> Shape:
        try:
            return self.layer.compute_output_shape(tuple(input_shape))
        except NotImplementedError:
            raise ValueError(
                f"{self.layer.name} does not say which shape it makes; give its class a method "
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
