"""NepaBackbone: patch embedding -> Transformer blocks -> final LayerNorm.

B images, T patches, N = 1 + T tokens, D width, L blocks, H heads, K head width.
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

# Arguments of `NepaBackbone` that `get_config` returns unchanged.
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
        image_shape: (height, width, channels) that the model is built with. Other sizes that `patch_size`
            divides work too: rotary positions are relative, learned ones are resized.
        patch_size: side of a patch in pixels.
        hidden_dim: width D.
        num_layers: number of blocks L.
        num_heads: number of attention heads H.
        mlp_dim: inner width of the MLP.
        gated_mlp: use the gated MLP act(x W_gate) * (x W_up) in place of act(x W_up).
        activation: name of the activation; default "gelu" (erf form), gated "silu" (SwiGLU).
        qkv_bias: add a bias in the q, k, v projections.
        qk_norm: apply LayerNorm to q and k over the head width, before RoPE.
        qk_norm_scale, qk_norm_bias: give that norm a scale, a bias.
        layer_scale: initial value of LayerScale; None for no LayerScale.
        drop_path_rate: drop-path rate of the last block; grows linearly from 0 at the first.
        dropout_rate: dropout rate on the output of the attention and MLP branches.
        attention_dropout_rate: dropout rate on the attention probabilities.
        use_causal_mask: let token t attend to tokens 0 ... t only (pretraining).
        use_mask_token: create a mask token, for `NepaPretrainer(masking_ratio=...)`.
        rope_theta, rope_rescale, rope_shift, rope_jitter, rope_extent: see `RotaryEmbedding`;
            rope_theta=None disables rotary positions, for the ablation.
        layer_norm_epsilon: epsilon of all norms.
        remat: recompute each block in the backward pass, trading time for memory.
        embedding: layer that replaces the patch embedding for inputs other than images, see
            `SequenceEmbedding`. `image_shape` is then the shape of one input, `patch_size` is ignored, and
            positions have as many axes as the layer's grid.
        position_embedding: "learned" adds a `PositionEmbedding` for the grid of `image_shape`; with
            rope_theta=None, the positions of a plain ViT, the baseline of the paper's Table 1b.

    Call arguments:
        images: (B, height, width, channels), floats in [-1, 1] or uint8 pixels.
        causal: overrides `use_causal_mask`.
        embeddings: token embeddings (B, N, D) that replace those of the images.

    Returns:
        {"embeddings": (B, N, D), "sequence_output": (B, N, D)}: CLS and patch embeddings of the images
        without positions, and the output of the final norm.

    Example:
        >>> backbone = NepaBackbone((28, 28, 1), patch_size=4, hidden_dim=32, num_heads=2, mlp_dim=64)
        >>> tuple(backbone(images)["sequence_output"].shape)  # 16 images of 7 x 7 patches
        (16, 50, 32)
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
            # Serialised before it is built: a copy of a built layer would be built under a wrong path.
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
        # Keras saves a layer under the first attribute that holds it; hide this one, to keep the file layout.
        return [name for name in super().__dir__() if name != "embedding"]

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        tokens = self.patch_embedding.compute_output_shape(input_shape)
        if tokens[-1] != self.hidden_dim:
            raise ValueError(
                f"The embedding returns tokens of width {tokens[-1]}, but hidden_dim is {self.hidden_dim}; "
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
        """Embed images (B, height, width, channels) as z_0 ... z_T, (B, N, D), without positions."""
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
        """Run blocks and final norm on x (B, tokens, D), the embeddings of the images' first tokens."""
        entering = self.add_positions(x, images)
        for state in self._states(entering, images, causal, training):  # noqa: B007  keeps the last
            pass
        return self.norm(state)

    def add_positions(self, x: Tensor, images: Tensor) -> Tensor:
        """Add learned positions, if any, to token embeddings x: the input of block 0, same shape as x.

        They are added here and not in `embed`, so that the target z_t depends on the content of patch t alone
        (a position in the target would be predictable without seeing the image), and a masked patch keeps its
        position. In causal pretraining the position of the last patch gets no gradient: it is no input.
        """
        return x if self.positions is None else self.positions(x, grid=self._grid(images))

    def _states(self, x, images, causal, training=False, return_probabilities=False):
        """Yield the output of each block, (B, tokens, D), or pairs of it and the attention probabilities."""
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
        """Tables of `RotaryEmbedding` for these images; None for a backbone without rotary positions."""
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
