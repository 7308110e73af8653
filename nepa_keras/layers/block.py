"""A pre-norm Transformer block."""

from collections.abc import Sequence

import keras

from nepa_keras import backends
from nepa_keras.layers.attention import SelfAttention
from nepa_keras.layers.mlp import MLP
from nepa_keras.layers.norm import LayerNorm
from nepa_keras.layers.residual import DropPath, LayerScale, scale_samples
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class TransformerBlock(keras.layers.Layer):
    """x += drop_path(ls1 * attn(LN(x)));  x += drop_path(ls2 * mlp(LN(x))).

    The residual stream keeps the variable dtype (float32 in mixed precision): bfloat16 would round away a
    branch that LayerScale multiplies by 1e-5.

    Inner layers are built and cast for themselves, so they are run by `call`: `Layer.__call__` costs about
    0.07 ms, on an eager backend together 2 % of a step of the tiny model, and a compiler cannot trace it.

    Args:
        num_heads, qkv_bias, qk_norm, qk_norm_scale, qk_norm_bias, attention_dropout: see
            `SelfAttention`.
        mlp_dim, gated_mlp, activation: see `MLP`.
        layer_scale: initial value of both LayerScales; None for no LayerScale.
        drop_path: drop-path rate of this block.
        dropout: dropout rate on the output of both branches.
        epsilon: epsilon of the norms.

    Call arguments:
        x: (B, N, D).
        rope, causal, return_probabilities: see `SelfAttention`.

    Returns:
        (B, N, D), or that and the attention probabilities.

    Example:
        >>> tuple(TransformerBlock(num_heads=2, mlp_dim=32)(np.ones((1, 5, 8))).shape)
        (1, 5, 8)
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        gated_mlp: bool = False,
        activation: str | None = None,
        qkv_bias: bool = True,
        qk_norm: bool = True,
        qk_norm_scale: bool = False,
        qk_norm_bias: bool = False,
        layer_scale: float | None = 1e-5,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        epsilon: float = 1e-12,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.gated_mlp = gated_mlp
        self.activation = activation
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.qk_norm_scale = qk_norm_scale
        self.qk_norm_bias = qk_norm_bias
        self.layer_scale = layer_scale
        self.drop_path = drop_path
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.epsilon = epsilon

        policy, stream = self.dtype_policy, self.variable_dtype
        self.attention_norm = LayerNorm(epsilon, name="attention_norm", dtype=stream)
        self.attention = SelfAttention(
            num_heads,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            qk_norm_scale=qk_norm_scale,
            qk_norm_bias=qk_norm_bias,
            dropout=attention_dropout,
            epsilon=epsilon,
            name="attention",
            dtype=policy,
        )
        self.mlp_norm = LayerNorm(epsilon, name="mlp_norm", dtype=stream)
        self.mlp = MLP(mlp_dim, gated=gated_mlp, activation=activation, name="mlp", dtype=policy)
        self.attention_scale = self.mlp_scale = None
        if layer_scale is not None:
            self.attention_scale = LayerScale(layer_scale, name="attention_scale", dtype=stream)
            self.mlp_scale = LayerScale(layer_scale, name="mlp_scale", dtype=stream)
        self.attention_drop = self.mlp_drop = self.branch_dropout = None
        if drop_path:
            self.attention_drop = DropPath(drop_path, name="attention_drop", dtype=stream)
            self.mlp_drop = DropPath(drop_path, name="mlp_drop", dtype=stream)
        if dropout:
            self.branch_dropout = keras.layers.Dropout(dropout, name="dropout", dtype=stream)

    def build(self, input_shape: Shape) -> None:
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)
        for scale in (self.attention_scale, self.mlp_scale):
            if scale is not None:
                scale.build(input_shape)

    def _factors(self, scale):
        """Factors of a LayerScale to fold into the matrix before it, or None to apply them to the output.

        Folded on TPU, where passes over tokens are expensive; not in float16, which would round weights times
        1e-5 to nearly zero.
        """
        folds = backends.platform() == "tpu" and self.compute_dtype != "float16"
        return scale.scale if folds and scale is not None else None

    def _join(self, x, branch, scale, kept=None, training=False):
        """Return x + branch; `kept` holds the factors of `DropPath`, or None."""
        if self.branch_dropout is not None:
            branch = keras.ops.cast(branch, self.branch_dropout.compute_dtype)
            branch = self.branch_dropout.call(branch, training=training)
        if scale is not None and self._factors(scale) is None:
            branch = scale.call(branch)
        if kept is not None:
            branch = scale_samples(branch, kept)
        return backends.optimization_barrier(x + keras.ops.cast(branch, x.dtype))

    def call(
        self,
        x: Tensor,
        rope: Sequence[Tensor] | None = None,
        causal: bool = False,
        return_probabilities: bool = False,
        training: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the block on x (B, N, D); also return the attention probabilities if requested."""
        # Random draws stay outside `_forward`: a compiler cannot trace seeds, which are on the host.
        kept = [
            None if drop is None or not training else drop.factors(keras.ops.shape(x)[0])
            for drop in (self.attention_drop, self.mlp_drop)
        ]
        forward = backends.compiled(TransformerBlock._forward)
        return forward(self, x, rope, causal, return_probabilities, training, kept)

    def _forward(self, x, rope, causal, return_probabilities, training, kept):
        """Compute `call` as a function of tensors, compiled once for all blocks of the same kind."""
        probabilities = None
        branch = self.attention.call(
            self.attention_norm.call(x),
            rope=rope,
            causal=causal,
            return_probabilities=return_probabilities,
            training=training,
            scale=self._factors(self.attention_scale),
        )
        if return_probabilities:
            branch, probabilities = branch
        x = self._join(x, branch, self.attention_scale, kept[0], training)
        x = self._through_mlp(x, kept[1], training)
        return (x, probabilities) if return_probabilities else x

    def _through_mlp(self, x, kept=None, training=False):
        branch = self.mlp.call(self.mlp_norm.call(x), scale=self._factors(self.mlp_scale))
        return self._join(x, branch, self.mlp_scale, kept, training)

    def step(
        self,
        x: Tensor,
        cache: tuple[Tensor, Tensor],
        position: Tensor,
        rope: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one token (B, 1, D) after the cached ones; see `SelfAttention.step`."""
        branch, cache = self.attention.step(
            self.attention_norm.call(x),
            cache,
            position,
            rope,
            scale=self._factors(self.attention_scale),
        )
        x = self._join(x, branch, self.attention_scale)
        return self._through_mlp(x), cache

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def compute_output_spec(self, x: Tensor, **kwargs) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, x.dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "gated_mlp": self.gated_mlp,
            "activation": self.activation,
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "qk_norm_scale": self.qk_norm_scale,
            "qk_norm_bias": self.qk_norm_bias,
            "layer_scale": self.layer_scale,
            "drop_path": self.drop_path,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "epsilon": self.epsilon,
        }
