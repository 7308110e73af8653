"""NepaImageSegmenter: outputs of four blocks -> feature pyramid -> UPerNet -> a class for each pixel.

B images, h x w patches, D width, C classes.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.inputs import as_floats, examine_labels, is_label, loss_or_nan
from nepa_keras.layers.convolutions import classifier, resize
from nepa_keras.layers.upernet import FCNHead, FeaturePyramid, UPerNetHead
from nepa_keras.step_metrics import FiniteMean
from nepa_keras.task import Task
from nepa_keras.trainable import freeze
from nepa_keras.types import Tensor

HEADS = ("upernet", "linear")


def segmentation_loss(logits: Tensor, labels: Tensor, ignore_label: int = 255) -> Tensor:
    """Mean cross-entropy over the labelled pixels, float32; 0 without labelled pixels.

    In a step on several replicas, the mean of their values is the mean over the pixels of all replicas.

    Args:
        logits: (B, height, width, C).
        labels: (B, height, width), integers.
        ignore_label: label of pixels to leave out.
    """
    labels = ops.cast(labels, "int32")
    counts = ops.not_equal(labels, ignore_label)
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    chosen = ops.where(counts, labels, 0)[..., None]
    losses = -ops.take_along_axis(log_probabilities, chosen, axis=-1)[..., 0]
    counts = ops.cast(counts, "float32")
    number = backends.mean_over_replicas(ops.sum(counts))
    return ops.sum(losses * counts) / ops.maximum(number, 1.0 / backends.replicas())


def default_taps(num_layers: int) -> tuple[int, ...]:
    """Blocks at one third, one half, two thirds and the end: 3, 5, 7, 11 of 12, and 7, 11, 15, 23 of 24."""
    shares = (1 / 3, 1 / 2, 2 / 3, 1)
    return tuple(max(round(num_layers * share) - 1, 0) for share in shares)


@keras.saving.register_keras_serializable(package="nepa_keras")
class NepaImageSegmenter(Task):
    """Semantic segmentation on a backbone: UPerNet (arXiv 1807.10221), or a linear probe of the patches.

    The model has its own loss: cross-entropy over all pixels whose label is not `ignore_label`, plus in
        training
    the weighted loss of the auxiliary head. `fit` logs the fraction of correct pixels as `pixel_accuracy`.

    Args:
        backbone: a `NepaBackbone`; attention is bidirectional.
        num_classes: number of classes C.
        head: "upernet"; or "linear", a linear layer on the final-normed patches, upsampled bilinearly.
        taps: four blocks, counted from 0, whose outputs (without final norm) UPerNet reads; default
            `default_taps`.
        channels: width of UPerNet; default D.
        dropout: dropout rate of whole channels before the last convolution of UPerNet and auxiliary head.
        auxiliary_weight: weight of the loss of an FCN head on the third tap; 0 for no such head.
        ignore_label: label of pixels that are left out of the loss and the accuracy.
        freeze_backbone: train only the head, with the backbone in inference mode.
        class_names: C names, or None.
        frozen: names of variables or layers that are not trained, as in `NepaImageClassifier`.

    Call arguments:
        images: (B, height, width, channels), floats in [-1, 1], any size: images are padded with zeros at the
            right and bottom to a multiple of the patch, and the logits are cropped.

    Returns:
        Logits (B, height, width, C), float32; in training {"logits": logits, "auxiliary": auxiliary logits}.

    Raises:
        ValueError: an unknown head, taps that are not four blocks in order, or as in `NepaImageClassifier`.

    Example:
        >>> segmenter = NepaImageSegmenter(backbone, num_classes=10, channels=8)
        >>> segmenter.compile(optimizer=nepa_keras.training.adamw(1e-4))
        >>> masks = np.random.default_rng(0).integers(0, 10, (16, 28, 28))
        >>> history = segmenter.fit(images, masks, verbose=0)
        >>> segmenter.predict(images, verbose=0).shape
        (16, 28, 28, 10)
    """

    own_loss = "every labelled pixel counts once"
    loss_is_mean_over_images = False  # it is a mean over the pixels of all replicas
    use_causal_mask = False  # a pixel's class depends on the whole image

    has_head = True
    official_architecture = None
    causes_of_non_finite = (
        "labels of pixels outside 0 ... num_classes - 1",
        *Task.causes_of_non_finite,
    )

    def __init__(
        self,
        backbone: NepaBackbone,
        num_classes: int,
        head: str = "upernet",
        taps: Sequence[int] | None = None,
        channels: int | None = None,
        dropout: float = 0.1,
        auxiliary_weight: float = 0.4,
        ignore_label: int = 255,
        freeze_backbone: bool = False,
        class_names: Sequence[str] | None = None,
        frozen: Sequence[str] = (),
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}.")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"There are {len(class_names)} class names for {num_classes} classes.")
        taps = default_taps(backbone.num_layers) if taps is None else tuple(taps)
        if (
            len(taps) != 4
            or list(taps) != sorted(taps)
            or not 0 <= taps[0] <= taps[-1] < backbone.num_layers
        ):
            raise ValueError(
                f"taps must be four of the blocks 0 to {backbone.num_layers - 1} in order, got {taps}."
            )
        self.num_classes = num_classes
        self.head = head
        self.taps = taps
        self.channels = channels
        self.dropout = dropout
        self.auxiliary_weight = auxiliary_weight
        self.ignore_label = ignore_label
        self.freeze_backbone = freeze_backbone
        self.class_names = None if class_names is None else tuple(class_names)
        self.frozen = tuple(frozen)
        self.pixel_accuracy = FiniteMean(name="pixel_accuracy")
        self._build_heads()
        self.built = True
        if freeze_backbone:
            # Not `backbone.trainable`: on TensorFlow it has no effect if the config has set it already.
            for variable in backbone.weights:
                variable.trainable = False
        freeze(self, self.frozen)

    def _build_heads(self):
        width, policy = self.backbone.hidden_dim, self.dtype_policy
        self.pyramid = self.auxiliary_head = None
        if self.head == "linear":
            self.decode_head = classifier(self.num_classes, width, policy, name="decode_head")
            return
        one = (None, None, None, width)
        self.pyramid = FeaturePyramid(width, name="pyramid", dtype=policy)
        self.pyramid.build(4 * [one])
        self.decode_head = UPerNetHead(
            self.num_classes,
            self.channels or width,
            dropout=self.dropout,
            name="decode_head",
            dtype=policy,
        )
        self.decode_head.build(4 * [one])
        if self.auxiliary_weight:
            self.auxiliary_head = FCNHead(
                self.num_classes, dropout=self.dropout, name="auxiliary_head", dtype=policy
            )
            self.auxiliary_head.build(one)

    def call(self, images: Tensor, training: bool = False) -> Tensor | dict[str, Tensor]:
        height, width = images.shape[1:3]
        if height is None or width is None:
            raise ValueError(
                "A segmenter needs the size of the images when TensorFlow traces its graph; give the size, "
                f"as in keras.Input((512, 512, {images.shape[-1]})), or call the segmenter directly."
            )
        images = as_floats(images, self.compute_dtype)  # before the padding with zeros
        patch = self.backbone.patch_size
        padding = [(0, 0), (0, -height % patch), (0, -width % patch), (0, 0)]
        images = ops.pad(images, padding) if any(map(sum, padding)) else images
        linear = self.pyramid is None
        maps = self.backbone.intermediates(  # (B, h, w, D)
            images,
            (-1,) if linear else self.taps,
            reshape=True,
            norm=linear,
            causal=self.use_causal_mask,
            training=training and not self.freeze_backbone,
        )
        if self.freeze_backbone:
            maps = [ops.stop_gradient(x) for x in maps]
        whole = images.shape[1:3]

        def on_pixels(logits):
            logits = resize(ops.cast(logits, "float32"), whole)
            return logits[:, :height, :width]

        if self.pyramid is None:
            logits = on_pixels(self.decode_head(maps[0]))
            return {"logits": logits} if training else logits
        pyramid = self.pyramid(maps, training=training)
        logits = on_pixels(self.decode_head(pyramid, training=training))
        if not training:
            return logits
        found = {"logits": logits}
        if self.auxiliary_head is not None:
            found["auxiliary"] = on_pixels(self.auxiliary_head(maps[2], training=True))
        return found

    def compute_output_spec(
        self, images: Tensor, training: bool = False
    ) -> keras.KerasTensor | dict[str, keras.KerasTensor]:
        shape = (*images.shape[:3], self.num_classes)
        if not training:
            return keras.KerasTensor(shape, "float32")
        names = ["logits"] if self.auxiliary_head is None else ["logits", "auxiliary"]
        return {name: keras.KerasTensor(shape, "float32") for name in names}

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        self._refuse_with_own_loss(sample_weight=sample_weight)
        known = is_label(y, self.num_classes, self.ignore_label)
        y = ops.where(known, y, self.ignore_label)  # PyTorch raises for labels out of range
        outputs = y_pred if isinstance(y_pred, dict) else {"logits": y_pred}
        loss = segmentation_loss(outputs["logits"], y, self.ignore_label)
        if "auxiliary" in outputs:
            auxiliary = segmentation_loss(outputs["auxiliary"], y, self.ignore_label)
            loss = loss + self.auxiliary_weight * auxiliary
        return loss_or_nan(loss, x, known)

    def examine_labels(self, y: np.ndarray) -> None:
        examine_labels(y, self.num_classes, self.ignore_label, pixels=True)

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        labels = ops.cast(y, "int32")
        counts = ops.cast(ops.not_equal(labels, self.ignore_label), "float32")
        right = ops.cast(ops.equal(ops.cast(ops.argmax(logits, -1), "int32"), labels), "float32")
        number = backends.mean_over_replicas(ops.sum(counts)) * backends.replicas()
        right = backends.mean_over_replicas(ops.sum(right * counts)) * backends.replicas()
        share = right / ops.maximum(number, 1.0)
        self.pixel_accuracy.update_state(share, sample_weight=number)
        return super().compute_metrics(x, y, logits, sample_weight)

    def get_config(self) -> dict:
        names = (
            "num_classes head taps channels dropout auxiliary_weight ignore_label freeze_backbone "
            "class_names frozen"
        )
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names.split()},
        }
