"""Multi-head self-attention with QK-norm and rotary positions.

B images, N tokens (CLS first), D width, H heads, K = D / H head width.
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
    """Causal or bidirectional self-attention: softmax(q k^T / sqrt(K)) v W_o, with [q | k | v] = x W.

    Before the product, q and k pass a LayerNorm over the head width (QK-norm) and the rotation of RoPE. Inner
    layers are run by `call`, see `TransformerBlock`.

    Args:
        num_heads: number of heads H; must divide the width.
        qkv_bias: add a bias in the q, k, v projections.
        qk_norm: apply LayerNorm to q and k over the head width, before the rotation.
        qk_norm_scale, qk_norm_bias: give these norms a scale, a bias.
        dropout: dropout rate on the attention probabilities; disables the fused kernel in training.
        epsilon: epsilon of the norms.

    Call arguments:
        x: (B, N, D).
        rope: tables (cos, sin), each of N rows and K columns, or None.
        causal: let token t attend to tokens 0 ... t only.
        return_probabilities: also return the softmax, (B, H, N, N) float32.
        scale: factors (D,) for the output, or None; see `Linear`.

    Returns:
        (B, N, D), or that and the probabilities.

    Example:
        >>> y, probabilities = SelfAttention(num_heads=2)(np.ones((1, 5, 8)), return_probabilities=True)
        >>> tuple(probabilities.shape)
        (1, 2, 5, 5)
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
        """Apply norm and rotation to q or k, x (B, N, H, K), in float32; return the compute dtype."""
        tables = rope and [ops.expand_dims(table, 1) for table in rope]  # (N, 1, K)
        if tables and self._bound() is not None and self.variable_dtype == "float32":
            cos, sin = tables
            return ops.cast(backends.rotated_norm(x, cos, sin, self.epsilon), self.compute_dtype)
        if norm is not None:
            x = norm.call(x)
        if tables:
            x = backends.rotate(ops.cast(x, "float32"), *tables)
        return ops.cast(x, self.compute_dtype)

    def _bound(self):
        """Upper bound of |q k^T / sqrt(K)|, or None: norms without scale give |q| = |k| = sqrt(K)."""
        if not self.qk_norm or self.qk_norm_scale or self.qk_norm_bias:
            return None
        return self.head_dim**0.5

    def _queries_keys_values(self, x, rope):
        """Project x (B, N, D) to q, k, v, each (B, N, H, K)."""
        shape = (3, self.num_heads, self.head_dim)
        if backends.platform() == "tpu" and self.qkv.is_plain:
            # Three products: XLA would copy slices of a single one to and from the layout of heads.
            q, k, v = self.qkv.parts(x, shape)
        else:
            qkv = ops.reshape(self.qkv.call(x), (-1, ops.shape(x)[1], *shape))
            q, k, v = ops.unstack(qkv, axis=2)
        q = self._positioned(q, self.q_norm, rope)
        return q, self._positioned(k, self.k_norm, rope), v

    def _joined(self, heads, scale=None):
        """Join the heads and project them, (B, N, H, K) -> (B, N, D)."""
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
        """Create an empty cache of keys and values, two tensors (batch, tokens, H, K)."""
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
        """Causal attention of one token to itself and the cached tokens before it.

        Args:
            x: (B, 1, D), the token at `position`.
            cache: keys and values from `empty_cache`, filled up to `position`.
            position: integer scalar.
            rope: tables (1, K) for this position.
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
