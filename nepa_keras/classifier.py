"""NepaImageClassifier: mean of the patch tokens -> norm -> linear."""

import keras
from keras import ops

from nepa_keras.backbone import NepaBackbone
from nepa_keras.guarded import GuardedModel
from nepa_keras.layers import LayerNorm, Linear


@keras.saving.register_keras_serializable(package="nepa_keras")
class NepaImageClassifier(GuardedModel):
    """Image classifier on a backbone (SPEC section 2).

    Args:
        backbone: a `NepaBackbone`; it is trained along.
        num_classes: K.
        pooling: "mean" of the patch tokens, CLS excluded, then a norm; or "last" token, no norm.
        use_causal_mask: bidirectional unless True.

    Call arguments:
        images: (B, height, width, channels), normalised floats.

    Returns:
        Logits (B, K), float32. The last layer starts at zero.

    Raises:
        ValueError: unknown pooling.

    Example:
        >>> classifier = NepaImageClassifier(backbone, num_classes=10)
        >>> classifier.compile(
        ...     optimizer=nepa_keras.training.adamw(1e-3),
        ...     loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ...     metrics=["accuracy"],
        ... )
        >>> classifier.fit(images, labels)
    """

    def __init__(
        self,
        backbone: NepaBackbone,
        num_classes: int,
        pooling: str = "mean",
        use_causal_mask: bool = False,
        **kwargs,
    ):
        super().__init__(dtype=kwargs.pop("dtype", None) or backbone.dtype_policy, **kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if pooling not in ("mean", "last"):
            raise ValueError(f'pooling must be "mean" or "last", got {pooling!r}.')
        self.backbone = backbone
        self.num_classes = num_classes
        self.pooling = pooling
        self.use_causal_mask = use_causal_mask
        stream = self.variable_dtype
        self.fc_norm = None
        if pooling == "mean":
            self.fc_norm = LayerNorm(name="fc_norm", dtype=stream)
            self.fc_norm.build((None, backbone.hidden_dim))
        self.head = Linear(num_classes, kernel_initializer="zeros", name="head", dtype=stream)
        self.head.build((None, backbone.hidden_dim))
        self.built = True

    def call(self, images, training=False):
        out = self.backbone(images, training=training, causal=self.use_causal_mask)
        tokens = out["sequence_output"]
        if self.fc_norm is None:
            return self.head(tokens[:, -1])
        return self.head(self.fc_norm(ops.mean(tokens[:, 1:], axis=1)))

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "pooling": self.pooling,
            "use_causal_mask": self.use_causal_mask,
        }

    @classmethod
    def from_config(cls, config):
        return cls(
            **{**config, "backbone": keras.saving.deserialize_keras_object(config["backbone"])}
        )
