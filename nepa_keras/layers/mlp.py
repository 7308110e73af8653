"""The block's MLP, plain or gated."""

import keras

from nepa_keras import backends
from nepa_keras.layers.linear import Linear
from nepa_keras.types import Shape, Tensor


def _activation(name: str):
    if name == "gelu":  # the erf form: the tanh one differs by up to 7e-4 in the states
        return backends.gelu
    return keras.activations.get(name)


@keras.saving.register_keras_serializable(package="nepa_keras")
class MLP(keras.layers.Layer):
    """act(x W_up) W_down, or gated: (act(x W_gate) * x W_up) W_down; (..., D) -> (..., D).

    The parts are run by their `call`: see `TransformerBlock`.

    Args:
        mlp_dim: inner width.
        gated: whether there is a gate (with "silu": SwiGLU).
        activation: name of a Keras activation; default erf "gelu", gated "silu".

    Call arguments:
        x: (..., D).
        scale: factors (D,) of the output, or None; see `Linear`.
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
