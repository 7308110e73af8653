"""Rollout: continue a sequence by the model's own predictions, many steps beyond the next embedding.

The paper predicts one step. Here each prediction is fed back as the next embedding. The objective
determines only the direction of a prediction, so it gets a length n before it is fed back:

    x_t = z_t                          t <= k, the known patches
    x_t = n * z^_t / |z^_t|            t > k,  z^_t = h(x_0, ..., x_{t-1})

B images, T patches, N = 1 + T tokens, D width, H heads, K head width.
"""

from typing import Self

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.nepa import normalize
from nepa_keras.types import Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class EmbeddingRollout(backends.Model):
    """Generate the embeddings after the first k patches from the model's own predictions.

    Keys and values of all blocks are cached: a step runs one token through the model.

    Args:
        backbone: backbone of a `NepaPretrainer`; always read causally.
        norm: length n of an embedding that is fed back; default the mean length of the known patch embeddings
            of the same image.

    Call arguments:
        inputs: {"images": images for the backbone, "known": (B,) integers k from 1 to T, or from 0 if `norm`
            is given}.

    Returns:
        {"embeddings": (B, T, D), the known embeddings followed by generated ones, "predictions": (B, T, D),
        the prediction at every position}.

    Example:
        >>> rollout = EmbeddingRollout(model.backbone)
        >>> out = rollout.predict({"images": images, "known": np.full(len(images), 24)}, verbose=0)
        >>> out["embeddings"].shape
        (16, 49, 32)
    """

    def __init__(self, backbone: NepaBackbone, norm: float | None = None, **kwargs):
        super().__init__(dtype=kwargs.pop("dtype", None) or backbone.dtype_policy, **kwargs)
        self.backbone = backbone
        self.norm = norm
        self.built = True
        self.jit_compile = backends.default_jit_compile()

    def call(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        images, known = inputs["images"], ops.cast(inputs["known"], "int32")
        z = self.backbone.embed(images)  # (B, N, D)
        norm = self._norm(z[:, 1:], known)  # (B, 1)
        batch, tokens = ops.shape(z)[0], z.shape[1] - 1
        rope = self.backbone.rope(images)
        places = self.backbone.add_positions(ops.zeros_like(z), images)

        def step(position, carry):
            predictions, expected, caches = carry
            token = ops.take(z, position, axis=1)  # (B, D)
            own = ops.cast(norm * normalize(expected), z.dtype)
            token = ops.where((position <= known)[:, None], token, own)
            token = token + ops.take(places, position, axis=1)
            expected, caches = self._step(token, caches, position, rope)
            predictions = ops.slice_update(predictions, (0, position, 0), expected[:, None])
            return predictions, expected, caches

        caches = [block.attention.empty_cache(batch, tokens) for block in self.backbone.blocks]
        start = (ops.zeros_like(z[:, 1:]), ops.zeros_like(z[:, 0]), caches)
        predictions, _, _ = ops.fori_loop(0, tokens, step, start)  # (B, T, D)
        own = norm[:, :, None] * normalize(predictions)
        is_known = (ops.arange(tokens, dtype="int32")[None, :] < known[:, None])[:, :, None]
        return {"embeddings": ops.where(is_known, z[:, 1:], own), "predictions": predictions}

    def _step(self, token, caches, position, rope):
        """Run one more token (B, D); return its `sequence_output` (B, D) and the extended caches."""
        if rope is not None:
            rope = [ops.take(table, ops.reshape(position, (1,)), axis=0) for table in rope]
        x, filled = token[:, None], []
        for block, cache in zip(self.backbone.blocks, caches, strict=True):
            x, cache = block.step(x, cache, position, rope)
            filled.append(cache)
        return self.backbone.norm(x)[:, 0], filled

    def _norm(self, z, known):
        """Lengths of generated embeddings, (B, 1) float32."""
        if self.norm is not None:
            return ops.full((ops.shape(z)[0], 1), self.norm, dtype="float32")
        is_known = ops.cast(
            ops.arange(z.shape[1], dtype="int32")[None, :] < known[:, None], "float32"
        )
        lengths = ops.norm(ops.cast(z, "float32"), axis=-1)  # (B, T)
        total = ops.sum(lengths * is_known, axis=1, keepdims=True)
        return total / ops.maximum(ops.sum(is_known, axis=1, keepdims=True), 1.0)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "norm": self.norm,
        }

    @classmethod
    def from_config(cls, config: dict) -> Self:
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})
