"""NepaImageClassifier: backbone -> mean of the patch tokens -> norm -> linear layer."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nepa_keras.backbone import NepaBackbone
from nepa_keras.inputs import (
    examine_labels,
    examine_targets,
    is_label,
    is_sparse,
    loss_or_nan,
    refuse_exclusive,
)
from nepa_keras.layers import LayerNorm, Linear
from nepa_keras.presets.official_config import CLASSIFICATION
from nepa_keras.probabilities import probabilities
from nepa_keras.task import Task
from nepa_keras.trainable import freeze
from nepa_keras.types import Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class NepaImageClassifier(Task):
    """Image classifier on a backbone, the fine-tuning model of the paper.

    Args:
        backbone: the `NepaBackbone`, trained together with the head.
        num_classes: number of classes C.
        pooling: "mean" of the patch tokens without CLS, then a norm (the released models); or the "last"
            token, without a norm.
        use_causal_mask: keep the causal mask of pretraining; False gives bidirectional attention.
        class_names: C names, for `decode_predictions`.
        multi_label: an image may have several labels or none. Probabilities are then independent
            (sigmoid), and the loss is one such as `keras.losses.BinaryCrossentropy(from_logits=True)` with
            targets (B, C) from 0 to 1.
        frozen: names of variables, or of layers, that are not trained, such as "patch_embedding/kernel",
            "position_embedding" or "block_0".

    Call arguments:
        images: (B, height, width, channels), floats in [-1, 1].

    Returns:
        Logits (B, C), float32. The last layer is initialised to zero.

    Raises:
        ValueError: unknown pooling, a number of names other than `num_classes`, or a frozen name that no
            variable has.

    Example:
        >>> classifier = NepaImageClassifier(backbone, num_classes=10)
        >>> classifier.compile(
        ...     optimizer=nepa_keras.training.adamw(1e-3),
        ...     loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ...     metrics=["accuracy"],
        ... )
        >>> history = classifier.fit(images, labels, verbose=0)
        >>> classifier.predict(images, verbose=0).shape
        (16, 10)
    """

    has_head = True
    official_architecture = CLASSIFICATION
    causes_of_non_finite = (
        "a loss for probabilities, while the head returns logits (set from_logits=True)",
        "labels outside 0 ... num_classes - 1",
        *Task.causes_of_non_finite,
    )

    def __init__(
        self,
        backbone: NepaBackbone,
        num_classes: int,
        pooling: str = "mean",
        use_causal_mask: bool = False,
        class_names: Sequence[str] | None = None,
        frozen: Sequence[str] = (),
        multi_label: bool = False,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if pooling not in ("mean", "last"):
            raise ValueError(f'pooling must be "mean" or "last", got {pooling!r}.')
        self.num_classes = num_classes
        self.pooling = pooling
        self.use_causal_mask = use_causal_mask
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"There are {len(class_names)} class names for {num_classes} classes.")
        self.class_names = None if class_names is None else tuple(class_names)
        self.multi_label = multi_label
        stream = self.variable_dtype
        self.fc_norm = None
        if pooling == "mean":
            epsilon = backbone.layer_norm_epsilon
            self.fc_norm = LayerNorm(epsilon, name="fc_norm", dtype=stream)
            self.fc_norm.build((None, backbone.hidden_dim))
        self.head = Linear(num_classes, kernel_initializer="zeros", name="head", dtype=stream)
        self.head.build((None, backbone.hidden_dim))
        self.built = True
        self.frozen = tuple(frozen)
        freeze(self, self.frozen)

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        out = self.backbone(images, training=training, causal=self.use_causal_mask)
        tokens = out["sequence_output"]
        pooled = tokens[:, -1] if self.fc_norm is None else ops.mean(tokens[:, 1:], axis=1)
        logits = self.head(pooled if self.fc_norm is None else self.fc_norm(pooled))
        return ops.cast(logits, self._logits_dtype)

    @property
    def _logits_dtype(self) -> str:
        """Float32 or wider: a softmax in 16 bits is imprecise."""
        return keras.backend.result_type(self.variable_dtype, "float32")

    def compute_output_spec(self, images: Tensor, training: bool = False) -> keras.KerasTensor:
        return keras.KerasTensor((images.shape[0], self.num_classes), self._logits_dtype)

    def _check_loss(self, loss: Any) -> None:
        super()._check_loss(loss)
        if self.multi_label:
            refuse_exclusive(loss)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        known = None
        if is_sparse(self.loss):
            known = is_label(y, self.num_classes, self._ignored)
            y = ops.where(known, y, 0)  # PyTorch raises for labels out of range
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss_or_nan(loss, x, known)

    @property
    def _ignored(self) -> int | None:
        """Label that a sparse loss is told to ignore, or None."""
        return getattr(self.loss, "ignore_class", None)

    def examine_labels(self, y: np.ndarray) -> None:
        if is_sparse(self.loss):
            examine_labels(y, self.num_classes, self._ignored)
        elif self.multi_label:
            examine_targets(y, self.num_classes)

    def decode_predictions(self, logits: Tensor, top: int = 5) -> list[list[tuple[str, float]]]:
        """Return names and probabilities of the most likely classes of each image, best first.

        Args:
            logits: (B, C), as `predict` returns them.
            top: number of classes per image.

        Returns:
            For each image a list of (name, probability): softmax, or sigmoid with `multi_label`.
        """
        names = self.class_names or [str(i) for i in range(self.num_classes)]
        return [
            [(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
            for row in probabilities(ops.convert_to_numpy(logits), self.multi_label)
        ]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "pooling": self.pooling,
            "use_causal_mask": self.use_causal_mask,
            "class_names": self.class_names,
            "frozen": self.frozen,
            "multi_label": self.multi_label,
        }
