"""The MLP of a Transformer block, plain or gated."""

import keras

from nepa_keras import backends
from nepa_keras.layers.linear import Linear
from nepa_keras.types import Shape, Tensor


def _activation(name: str):
    if name == "gelu":  # erf form; the tanh form changes hidden states by up to 7e-4
        return backends.gelu
    return keras.activations.get(name)


@keras.saving.register_keras_serializable(package="nepa_keras")
class MLP(keras.layers.Layer):
    """act(x W_up) W_down, or gated: (act(x W_gate) * x W_up) W_down; (..., D) -> (..., D).

    Inner layers are run by `call`, see `TransformerBlock`.

    Args:
        mlp_dim: inner width.
        gated: use a gate (with "silu": SwiGLU).
        activation: name of a Keras activation; default "gelu" (erf form), gated "silu".

    Call arguments:
        x: (..., D).
        scale: factors (D,) of the output, or None; see `Linear`.

    Example:
        >>> tuple(MLP(mlp_dim=32, gated=True)(np.ones((1, 5, 8))).shape)
        (1, 5, 8)
    """

    def __init__(self, mlp_dim: int, gated: bool = False, activation: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.mlp_dim = mlp_dim
        self.gated = gated
        self.activation = activation or ("silu" if gated else "gelu")
        self._activate = _activation(self.activation)

    def build(self, input_shape: Shape) -> None:
        policy = self.dtype_policy
        self.gate = None
        if self.gated:
            self.gate = Linear(self.mlp_dim, name="gate", dtype=policy)
            self.gate.build(input_shape)
        self.up = Linear(self.mlp_dim, name="up", dtype=policy)
        self.up.build(input_shape)
        self.down = Linear(input_shape[-1], name="down", dtype=policy)
        self.down.build((*input_shape[:-1], self.mlp_dim))

    def call(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        if self.gate is None:
            return self.down.call(self._activate(self.up.call(x)), scale=scale)
        return self.down.call(self._activate(self.gate.call(x)) * self.up.call(x), scale=scale)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "mlp_dim": self.mlp_dim,
            "gated": self.gated,
            "activation": self.activation,
        }
