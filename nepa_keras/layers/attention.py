"""Multi-head self-attention with QK-norm and rotary positions.

B batch, T tokens (CLS first), D width, H heads, K = D / H head width.
"""

from collections.abc import Sequence

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.layers.linear import Linear
from nepa_keras.layers.norm import LayerNorm
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class SelfAttention(keras.layers.Layer):
    """q, k, v = x W; LayerNorm(q), LayerNorm(k); RoPE; softmax(q k^T / sqrt(K)) v; W_o.

    One matrix holds the three projections, as [q | k | v] columns. The parts are run by their `call`:
    see `TransformerBlock`.

    Args:
        num_heads: H; divides the width.
        qkv_bias: whether q, k, v have a bias.
        qk_norm: LayerNorm of q and of k over the head width, before the rotation.
        qk_norm_scale, qk_norm_bias: whether these norms have a scale and a bias.
        dropout: rate on the attention probabilities; uses the explicit formulation.
        epsilon: of the norms.

    Call arguments:
        x: (B, T, D).
        rope: tables (cos, sin), each (T, K), or None.
        causal: whether token t sees only tokens 0..t.
        return_probabilities: also return the softmax, (B, H, T, T) float32.
        scale: factors (D,) of the output, or None; see `Linear`.
    """

    def __init__(
        self,
        num_heads: int,
        qkv_bias: bool = True,
        qk_norm: bool = True,
        qk_norm_scale: bool = False,
        qk_norm_bias: bool = False,
        dropout: float = 0.0,
        epsilon: float = 1e-12,
        **kwargs,
    ):
        # Autocast would round the rotary tables to the compute dtype.
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.qk_norm_scale = qk_norm_scale
        self.qk_norm_bias = qk_norm_bias
        self.dropout = dropout
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide the width {width}.")
        self.head_dim = width // self.num_heads
        policy = self.dtype_policy
        self.qkv = Linear(3 * width, use_bias=self.qkv_bias, name="qkv", dtype=policy)
        self.qkv.build(input_shape)
        self.q_norm = self.k_norm = None
        if self.qk_norm:
            options = {
                "epsilon": self.epsilon,
                "scale": self.qk_norm_scale,
                "center": self.qk_norm_bias,
                "dtype": self.variable_dtype,
            }
            self.q_norm = LayerNorm(name="q_norm", **options)
            self.k_norm = LayerNorm(name="k_norm", **options)
            self.q_norm.build((self.head_dim,))
            self.k_norm.build((self.head_dim,))
        self.drop = keras.layers.Dropout(self.dropout, dtype=policy) if self.dropout else None
        self.output_dense = Linear(width, name="output_dense", dtype=policy)
        self.output_dense.build(input_shape)

    def _positioned(self, x, norm, rope):
        """Norm, then rotation, in float32, then the compute dtype; x (B, T, H, K)."""
        tables = rope and [ops.expand_dims(table, 1) for table in rope]  # (T, 1, K)
        if tables and self._bound() is not None and self.variable_dtype == "float32":
            cos, sin = tables
            return ops.cast(backends.rotated_norm(x, cos, sin, self.epsilon), self.compute_dtype)
        if norm is not None:
            x = norm.call(x)
        if tables:
            x = backends.rotate(ops.cast(x, "float32"), *tables)
        return ops.cast(x, self.compute_dtype)

    def _bound(self):
        """Of the scores: norms without a scale make vectors of length sqrt(K), which rotation keeps."""
        if not self.qk_norm or self.qk_norm_scale or self.qk_norm_bias:
            return None
        return self.head_dim**0.5

    def _queries_keys_values(self, x, rope):
        """(B, T, D) -> three of (B, T, H, K)."""
        shape = (3, self.num_heads, self.head_dim)
        if backends.platform() == "tpu" and self.qkv.is_plain:
            # One product's result would be copied three times, to and from the layout of heads.
            q, k, v = self.qkv.parts(x, shape)
        else:
            qkv = ops.reshape(self.qkv.call(x), (-1, ops.shape(x)[1], *shape))
            q, k, v = ops.unstack(qkv, axis=2)
        q = self._positioned(q, self.q_norm, rope)
        return q, self._positioned(k, self.k_norm, rope), v

    def _joined(self, heads, scale=None):
        """(B, T, H, K) -> (B, T, D)."""
        heads = ops.reshape(heads, (-1, ops.shape(heads)[1], self.num_heads * self.head_dim))
        return self.output_dense.call(heads, scale=scale)

    def call(
        self,
        x: Tensor,
        rope: Sequence[Tensor] | None = None,
        causal: bool = False,
        return_probabilities: bool = False,
        training: bool = False,
        scale: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        q, k, v = self._queries_keys_values(x, rope)
        temperature = self.head_dim**-0.5
        probabilities = None
        if return_probabilities or (self.drop is not None and training):
            probabilities = backends.attention_probabilities(q, k, temperature, causal)
            weights = ops.cast(probabilities, v.dtype)
            if self.drop is not None:
                weights = self.drop.call(weights, training=training)
            heads = backends.weighted_values(weights, v)
        else:
            heads = backends.attention(
                q, k, v, scale=temperature, causal=causal, bound=self._bound()
            )
        y = self._joined(heads, scale)
        return (y, probabilities) if return_probabilities else y

    def empty_cache(self, batch: int | Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of no token yet, two of (batch, tokens, H, K)."""
        shape = (batch, tokens, self.num_heads, self.head_dim)
        return ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)

    def step(
        self,
        x: Tensor,
        cache: tuple[Tensor, Tensor],
        position: Tensor,
        rope: Sequence[Tensor] | None = None,
        scale: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Causal attention of one token to those before it, without computing them again.

        Args:
            x: (B, 1, D), the token at `position`.
            cache: keys and values of `empty_cache`, filled before `position`.
            position: integer scalar.
            rope: tables (1, K) of the position.
            scale: as in `call`.

        Returns:
            (B, 1, D), and the cache with this token.
        """
        q, k, v = self._queries_keys_values(x, rope)
        keys, values = (
            ops.slice_update(held, (0, position, 0, 0), ops.cast(new, held.dtype))
            for held, new in zip(cache, (k, v), strict=True)
        )
        temperature = self.head_dim**-0.5
        weights = backends.attention_probabilities(
            q, keys, temperature, causal=True, first=position
        )
        heads = backends.weighted_values(ops.cast(weights, values.dtype), values)
        return self._joined(heads, scale), (keys, values)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "qk_norm_scale": self.qk_norm_scale,
            "qk_norm_bias": self.qk_norm_bias,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
        }
