"""Few-label fine-tuning: the paper's evaluation of a pretrained backbone, at small scale."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import ops

from nepa_keras.backbone import NepaBackbone
from nepa_keras.classifier import NepaImageClassifier
from nepa_keras.clone import clone_backbone
from nepa_keras.data import AugmentedBatches, ImageArrays, RandomResizedCrop, Resize
from nepa_keras.evaluation.features import predict_padded
from nepa_keras.training import LayerwiseWarmupCosine, WarmupCosine, adamw


class FewLabelTrial:
    """Fine-tune a classifier on a few labels, several times with one compiled program.

    Each run draws a class-balanced subset and its order from its seed, starts from the pretrained or from
    fresh weights, trains the whole classifier (bidirectional by default) for the same number of steps either
    way, and is evaluated on all test images.

    Args:
        backbone: a pretrained `NepaBackbone`; copied, never changed.
        images, labels: training images (B, height, width, channels) uint8 and their class numbers (B,).
        test_images, test_labels: the same for the test.
        num_labels: number of images to train on.
        steps: training steps.
        batch_size: images per step.
        learning_rate: peak of the schedule (warm-up, then cosine).
        num_classes: number of classes; default the largest label + 1.
        warmup_ratio: fraction of the steps that warms up.
        layer_decay: factor of the learning rate from each block to the one below, each block with its own
            warm-up, as in the released fine-tuning scripts; None for the same rate everywhere.
        layerwise: more arguments of `LayerwiseWarmupCosine`, such as {"own_warmup": False}.
        classifier: more arguments of `NepaImageClassifier`, such as {"pooling": "last"}.
        weight_decay: weight decay of matrices.
        beta_2: Adam's beta_2; 0.999 as in the paper's and the released scripts' fine-tuning.
        augment: whether to apply random resized crops and flips.
        **overrides: constructor arguments of the copied backbone that replace the original's, such as
            drop_path_rate=0.1.

    Raises:
        ValueError: a class has too few images, a batch is larger than the subset, or `layerwise` is given
            without `layer_decay`.

    Example:
        >>> trial = evaluation.FewLabelTrial(
        ...     backbone, arrays.train_images, arrays.train_labels, arrays.test_images,
        ...     arrays.test_labels, num_labels=20, steps=2, batch_size=10
        ... )
        >>> gain = trial.run(seed=0) - trial.run(seed=0, from_scratch=True)
    """

    def __init__(
        self,
        backbone: NepaBackbone,
        images: np.ndarray,
        labels: np.ndarray,
        test_images: np.ndarray,
        test_labels: np.ndarray,
        *,
        num_labels: int = 500,
        steps: int = 200,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        num_classes: int | None = None,
        warmup_ratio: float = 0.1,
        layer_decay: float | None = None,
        layerwise: Mapping[str, Any] = MappingProxyType({}),
        classifier: Mapping[str, Any] = MappingProxyType({}),
        weight_decay: float = 0.05,
        beta_2: float = 0.999,
        augment: bool = True,
        **overrides,
    ):
        if batch_size > num_labels:
            raise ValueError(
                f"batch_size={batch_size} is more than num_labels={num_labels}; lower batch_size."
            )
        if layerwise and layer_decay is None:
            raise ValueError(f"layerwise={dict(layerwise)} needs a layer_decay; give one.")
        self.images, self.labels = images, np.asarray(labels)
        self.test_images, self.test_labels = test_images, np.asarray(test_labels)
        self.num_labels = num_labels
        self.steps = steps
        self.batch_size = batch_size
        self.num_classes = num_classes or int(self.labels.max()) + 1
        self.augment = augment
        class_balanced_subset(self.labels, num_labels, seed=0, num_classes=self.num_classes)

        pretrained = clone_backbone(
            backbone, **{"use_causal_mask": False, "use_mask_token": False, **overrides}
        )
        # Listed before the classifier is made, which may freeze some.
        self._of_backbone = pretrained.variables
        self._weights = pretrained.trainable_variables
        self.pretrained = _values(self._weights)
        self.classifier = NepaImageClassifier(pretrained, self.num_classes, **classifier)
        schedule = WarmupCosine(learning_rate, steps, warmup_ratio)
        if layer_decay is not None:
            schedule = LayerwiseWarmupCosine(
                learning_rate,
                steps,
                backbone.num_layers,
                layer_decay,
                warmup_ratio=warmup_ratio,
                **layerwise,
            )
        self.classifier.compile(
            optimizer=adamw(
                schedule,
                weight_decay=weight_decay,
                beta_2=beta_2,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self.classifier.optimizer.build(self.classifier.trainable_variables)
        self._variables = [*self.classifier.variables, *self.classifier.optimizer.variables]
        self._initial = _values(self._variables)

    def run(self, seed: int, from_scratch: bool = False) -> float:
        """Train, and return the accuracy on the test images, in [0, 1].

        Sets Keras' global seed, from which fresh weights are drawn.

        Raises:
            NonFiniteError: the loss diverged; another run may follow.
        """
        keras.utils.set_random_seed(seed)
        self._reset(from_scratch)
        chosen = class_balanced_subset(self.labels, self.num_labels, seed, self.num_classes)
        batches = AugmentedBatches(
            self.images[chosen],
            self.batch_size,
            self.classifier.backbone.image_shape[:2],
            seed=seed,
            labels=self.labels[chosen],
            transform=RandomResizedCrop() if self.augment else Resize(),
        )
        self.classifier.fit(batches.endless(), steps_per_epoch=self.steps, shuffle=False, verbose=0)
        logits = predict_padded(
            self.classifier, self.test_images, self.classifier.backbone.image_shape[:2], 256
        )  # (B, C)
        return float((logits.argmax(axis=1) == self.test_labels).mean())

    def _reset(self, from_scratch: bool) -> None:
        """Reset all that a run depends on: weights, optimizer, and the random state of each layer."""
        _assign(self._variables, self._initial)
        fresh = NepaBackbone.from_config(self.classifier.backbone.get_config())
        _assign(self._of_backbone, _values(fresh.variables))
        if not from_scratch:
            _assign(self._weights, self.pretrained)


def few_label_accuracy(
    backbone: NepaBackbone,
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int = 0,
    from_scratch: bool = False,
    **options,
) -> float:
    """Test accuracy of one run of fine-tuning on a few labels.

    Args:
        backbone, images, labels, test_images, test_labels, **options: see `FewLabelTrial`.
        seed: seed of the subset, its order, the augmentation and fresh weights.
        from_scratch: whether to start from fresh weights instead of the backbone's.
    """
    trial = FewLabelTrial(backbone, images, labels, test_images, test_labels, **options)
    return trial.run(seed, from_scratch)


def few_label_comparison(
    backbone: NepaBackbone, data: ImageArrays, seeds: Iterable[int] = (0, 1, 2), **options
) -> dict[str, list[float]]:
    """Test accuracies of fine-tuning the pretrained model and the same model from scratch, one per seed.

    Args:
        backbone: the pretrained `NepaBackbone`.
        data: `ImageArrays` with training and test images and labels.
        seeds: one pair of runs each, on the same subset in the same order.
        **options: see `FewLabelTrial`.

    Returns:
        {"pretrained": accuracies, "scratch": accuracies}, in the order of the seeds.
    """
    trial = FewLabelTrial(
        backbone,
        data.train_images,
        data.train_labels,
        data.test_images,
        data.test_labels,
        **options,
    )
    results: dict[str, list[float]] = {"pretrained": [], "scratch": []}
    for seed in seeds:
        results["pretrained"].append(trial.run(seed))
        results["scratch"].append(trial.run(seed, from_scratch=True))
    return results


def class_balanced_subset(
    labels: np.ndarray, num_labels: int, seed: int, num_classes: int | None = None
) -> np.ndarray:
    """Indices (num_labels,) of a random subset with equally many images of each class, within one.

    Raises:
        ValueError: there are fewer labels than classes, or a class has too few images.
    """
    labels = np.asarray(labels)
    num_classes = num_classes or int(labels.max()) + 1
    if num_labels < num_classes:
        raise ValueError(f"num_labels={num_labels} must be at least the {num_classes} classes.")
    generator = np.random.default_rng(seed)
    one_more = set(generator.permutation(num_classes)[: num_labels % num_classes].tolist())
    chosen = []
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        wanted = num_labels // num_classes + (label in one_more)
        if len(rows) < wanted:
            raise ValueError(
                f"Class {label} has {len(rows)} images where num_labels={num_labels} needs "
                f"{wanted}; lower num_labels."
            )
        chosen.append(generator.choice(rows, wanted, replace=False))
    return generator.permutation(np.concatenate(chosen))


def _values(variables) -> list[np.ndarray]:
    # Copied: on CPU the NumPy view of a torch variable changes along with it.
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def _assign(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
