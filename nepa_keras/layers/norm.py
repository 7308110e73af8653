"""LayerNorm over the last axis, always computed in float32."""

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerNorm(keras.layers.Layer):
    """(x - mean) / sqrt(var + epsilon) * gamma + beta over the last axis.

    Args:
        epsilon: value added to the (biased) variance.
        scale: learn a factor gamma.
        center: learn an offset beta.

    Example:
        >>> y = LayerNorm(scale=False, center=False)(np.array([[1.0, 3.0]]))
        >>> keras.ops.convert_to_numpy(y).round(4).tolist()
        [[-1.0, 1.0]]
    """

    def __init__(self, epsilon: float = 1e-12, scale: bool = True, center: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.scale = scale
        self.center = center

    def build(self, input_shape: Shape) -> None:
        width = (input_shape[-1],)
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                shape=width, initializer="ones", name="gamma", autocast=False
            )
        if self.center:
            self.beta = self.add_weight(
                shape=width, initializer="zeros", name="beta", autocast=False
            )

    def call(self, x: Tensor) -> Tensor:
        y = backends.layer_norm(
            ops.cast(x, "float32"),
            None if self.gamma is None else ops.cast(self.gamma, "float32"),
            None if self.beta is None else ops.cast(self.beta, "float32"),
            self.epsilon,
        )
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "scale": self.scale,
            "center": self.center,
        }
