"""NepaBackbone: patch embedding -> blocks -> norm.

B batch, T patches, D width, L layers, H heads, K head width.
"""

from typing import Self

import keras
from keras import ops

from nepa_keras import backends, layers
from nepa_keras.adapters import Adaptable
from nepa_keras.deployment import Deployable
from nepa_keras.hidden_states import HiddenStates
from nepa_keras.presets import PresetMixin
from nepa_keras.types import Shape, Tensor

# Those of `NepaBackbone` that a configuration holds as they are.
_ARGUMENTS = (
    "image_shape patch_size hidden_dim num_layers num_heads mlp_dim gated_mlp activation qkv_bias "
    "qk_norm qk_norm_scale qk_norm_bias layer_scale drop_path_rate dropout_rate "
    "attention_dropout_rate use_causal_mask use_mask_token rope_theta rope_rescale rope_shift "
    "rope_jitter layer_norm_epsilon remat rope_extent position_embedding"
).split()


@keras.saving.register_keras_serializable(package="nepa_keras")
class NepaBackbone(PresetMixin, Adaptable, HiddenStates, Deployable, keras.Model):
    """The Vision Transformer of NEPA (arXiv 2512.16922), causal or bidirectional.

    Args:
        image_shape: (height, width, channels) the model is built with; other sizes that the patch
            divides work too, as positions are relative, or resized if learned.
        patch_size: side of a patch in pixels.
        hidden_dim: width D.
        num_layers: L.
        num_heads: H.
        mlp_dim: inner width of the MLP.
        gated_mlp: act(gate(x)) * up(x) in place of act(up(x)).
        activation: default erf "gelu", gated "silu".
        qkv_bias: bias of the q, k, v projections.
        qk_norm: LayerNorm of q and k over the head width, before RoPE.
        qk_norm_scale, qk_norm_bias: whether that norm has a scale and a bias.
        layer_scale: initial value of LayerScale, or None for no LayerScale.
        drop_path_rate: rate of the last block; grows linearly from 0 at the first.
        dropout_rate: on the output of both branches of every block.
        attention_dropout_rate: on the attention probabilities.
        use_causal_mask: whether token t sees only tokens 0..t (pretraining).
        use_mask_token: whether there is a mask token, for `NepaPretrainer(masking_ratio=...)`.
        rope_theta, rope_rescale, rope_shift, rope_jitter, rope_extent: see `RotaryEmbedding`;
            rope_theta=None leaves rotary positions out, for the ablation.
        layer_norm_epsilon: of every norm.
        remat: recompute each block in the backward pass, trading time for memory.
        embedding: a layer in place of the patch embedding, for anything that is no image: see
            `SequenceEmbedding`. Then `image_shape` is the shape of one input, `images` are those inputs,
            `patch_size` means nothing, and positions have as many axes as the layer's grid.
        position_embedding: "learned" adds a `PositionEmbedding` of the grid of `image_shape`; with
            rope_theta=None, the positions of a plain ViT, where the paper's Table 1b begins.

    Call arguments:
        images: (B, height, width, channels), floats in [-1, 1] or uint8 pixels.
        causal: overrides `use_causal_mask`.
        embeddings: token embeddings (B, 1 + T, D) to use in place of those of the images.

    Returns:
        {"embeddings": (B, 1 + T, D), "sequence_output": (B, 1 + T, D)}: CLS and patch embeddings
        without positions, before any block, and the final-normed output.

    Example:
        >>> backbone = NepaBackbone.from_preset("nepa_base_patch14_224", load_weights=False)
        >>> backbone(keras.ops.zeros((2, 224, 224, 3)))["sequence_output"].shape
        (2, 257, 768)
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (224, 224, 3),
        patch_size: int = 14,
        hidden_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        gated_mlp: bool = False,
        activation: str | None = None,
        qkv_bias: bool = True,
        qk_norm: bool = True,
        qk_norm_scale: bool = False,
        qk_norm_bias: bool = False,
        layer_scale: float | None = 1e-5,
        drop_path_rate: float = 0.0,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        use_causal_mask: bool = True,
        use_mask_token: bool = False,
        rope_theta: float | None = 100.0,
        rope_rescale: float | None = 2.0,
        rope_shift: float | None = None,
        rope_jitter: float | None = None,
        layer_norm_epsilon: float = 1e-12,
        remat: bool = False,
        rope_extent: float = 1.0,
        embedding: keras.layers.Layer | None = None,
        position_embedding: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.image_shape: Shape = tuple(image_shape)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.gated_mlp = gated_mlp
        self.activation = activation
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.qk_norm_scale = qk_norm_scale
        self.qk_norm_bias = qk_norm_bias
        self.layer_scale = layer_scale
        self.drop_path_rate = drop_path_rate
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.use_causal_mask = use_causal_mask
        self.use_mask_token = use_mask_token
        self.rope_theta = rope_theta
        self.rope_rescale = rope_rescale
        self.rope_shift = rope_shift
        self.rope_jitter = rope_jitter
        self.layer_norm_epsilon = layer_norm_epsilon
        self.remat = remat
        self.rope_extent = rope_extent
        self.embedding = embedding
        self.position_embedding = position_embedding
        for name in ("patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if hidden_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide hidden_dim={hidden_dim}.")
        if position_embedding not in (None, "learned"):
            raise ValueError(
                f'position_embedding must be None or "learned", got {position_embedding!r}.'
            )

        policy, stream = self.dtype_policy, self.variable_dtype
        options = {"use_mask_token": use_mask_token, "name": "patch_embedding", "dtype": policy}
        if embedding is None:
            self.patch_embedding = layers.PatchEmbedding(hidden_dim, patch_size, **options)
        else:
            # Now, as of a built layer a copy would be built at once, outside of its place in the paths.
            self._embedding_config = keras.saving.serialize_keras_object(embedding)
            self.patch_embedding = layers.SequenceEmbedding(embedding, **options)
        grid = self.patch_embedding.grid((None, *self.image_shape))
        self.positions = self.rotary = None
        if position_embedding is not None:
            self.positions = layers.PositionEmbedding(grid, name="position_embedding", dtype=stream)
        if rope_theta is not None:
            self.rotary = layers.RotaryEmbedding(
                hidden_dim // num_heads,
                theta=rope_theta,
                rescale=rope_rescale,
                shift=rope_shift,
                jitter=rope_jitter,
                extent=rope_extent,
                axes=len(grid),
                name="rotary",
                dtype="float32",
            )
        self.blocks = [
            layers.TransformerBlock(
                num_heads,
                mlp_dim,
                gated_mlp=gated_mlp,
                activation=activation,
                qkv_bias=qkv_bias,
                qk_norm=qk_norm,
                qk_norm_scale=qk_norm_scale,
                qk_norm_bias=qk_norm_bias,
                layer_scale=layer_scale,
                drop_path=drop_path_rate * i / max(num_layers - 1, 1),
                dropout=dropout_rate,
                attention_dropout=attention_dropout_rate,
                epsilon=layer_norm_epsilon,
                name=f"block_{i}",
                dtype=policy,
            )
            for i in range(num_layers)
        ]
        self.norm = layers.LayerNorm(layer_norm_epsilon, name="norm", dtype=stream)
        self.build((None, *self.image_shape))

    def __dir__(self):
        # Keras saves layers by the first of these names that leads to them: in files it is one of `layers`.
        return [name for name in super().__dir__() if name != "embedding"]

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        tokens = self.patch_embedding.compute_output_shape(input_shape)
        if tokens[-1] != self.hidden_dim:
            raise ValueError(
                f"The embedding makes tokens of width {tokens[-1]}, but hidden_dim is {self.hidden_dim}; "
                "make them equal."
            )
        self.patch_embedding.build(input_shape)
        if self.positions is not None:
            self.positions.build(tokens)
        for block in self.blocks:
            block.build(tokens)
        self.norm.build(tokens)
        if self.rotary is not None:
            self.rotary.build(self.patch_embedding.grid(input_shape))

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, height, width, channels) -> embeddings (B, 1 + T, D)."""
        return self.patch_embedding(images)

    def call(
        self,
        images: Tensor,
        training: bool = False,
        causal: bool | None = None,
        embeddings: Tensor | None = None,
    ) -> dict[str, Tensor]:
        clean = self.embed(images)
        x = clean if embeddings is None else embeddings
        return {"embeddings": clean, "sequence_output": self.encode(x, images, training, causal)}

    def encode(
        self, x: Tensor, images: Tensor, training: bool = False, causal: bool | None = None
    ) -> Tensor:
        """Token embeddings -> final-normed output; x (B, N, D), the first N tokens of the images."""
        entering = self.add_positions(x, images)
        for state in self._states(entering, images, causal, training):  # noqa: B007  up to the last
            pass
        return self.norm(state)

    def add_positions(self, x: Tensor, images: Tensor) -> Tensor:
        """Token embeddings -> what enters block 0: the same, or with learned positions added; both (B, N, D).

        Positions are added here and not in `embed`, so that the target z_t is the embedding of patch t alone
        (with positions in it a part would be known from the place), and a masked patch keeps its place. In
        causal pretraining nothing is predicted from the last patch, whose vector gets no gradient.
        """
        return x if self.positions is None else self.positions(x, grid=self._grid(images))

    def _states(self, x, images, causal, training=False, return_probabilities=False):
        """Yields what leaves each block, (B, N, D), or that with the block's attention probabilities."""
        rope = self.rope(images, training)
        options = {
            "rope": rope and [table[: ops.shape(x)[1]] for table in rope],
            "causal": self.use_causal_mask if causal is None else causal,
            "training": training,
        }
        for block in self.blocks:
            if return_probabilities:
                x, probabilities = block(x, return_probabilities=True, **options)
                yield x, probabilities
                continue
            recompute = self.remat and training
            x = backends.remat(block, x, **options) if recompute else block(x, **options)
            yield x

    def rope(self, images: Tensor, training: bool = False) -> tuple[Tensor, Tensor] | None:
        """The tables of `RotaryEmbedding` for these images; None of a backbone without."""
        if self.rotary is None:
            return None
        return self.rotary(grid=self._grid(images), training=training)

    def compute_output_shape(self, input_shape: Shape) -> dict[str, Shape]:
        tokens = self.patch_embedding.compute_output_shape(input_shape)
        return {"embeddings": tokens, "sequence_output": tokens}

    def compute_output_spec(
        self,
        images: Tensor,
        training: bool = False,
        causal: bool | None = None,
        embeddings: Tensor | None = None,
    ) -> dict[str, keras.KerasTensor]:
        shapes = self.compute_output_shape(images.shape)
        if embeddings is not None:
            shapes["sequence_output"] = embeddings.shape
        return {name: keras.KerasTensor(s, self.variable_dtype) for name, s in shapes.items()}

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in _ARGUMENTS},
            "embedding": None if self.embedding is None else self._embedding_config,
        }

    @classmethod
    def from_config(cls, config: dict) -> Self:
        if isinstance(embedding := config.get("embedding"), dict):
            config = {**config, "embedding": keras.saving.deserialize_keras_object(embedding)}
        return super().from_config(config)
