"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch with itself in reverse; soft targets."""

import math
from collections.abc import Sequence

import numpy as np


class MixupCutmix:
    """Mixes each image of a batch with its partner from the other end, by one of the two ways for all.

    Args:
        num_classes: K.
        mixup: alpha of the Beta distribution of mixup's share; 0 for no mixup.
        cutmix: the same of CutMix, whose share is the area outside the box; 0 for no CutMix.
        switch_probability: share of the batches that get CutMix where both are on.
        label_smoothing: e; a target has 1 - e + e / K on its class and e / K elsewhere.
    """

    def __init__(
        self,
        num_classes: int,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.1,
    ):
        if min(mixup, cutmix) < 0 or not 0 <= switch_probability <= 1:
            raise ValueError(
                f"mixup={mixup} and cutmix={cutmix} must not be negative, and "
                f"switch_probability={switch_probability} be from 0 to 1."
            )
        if num_classes < 2 or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"num_classes={num_classes} must be at least 2, and label_smoothing={label_smoothing} from 0 "
                "to below 1."
            )
        self.num_classes = num_classes
        self.mixup, self.cutmix, self.switch_probability = mixup, cutmix, switch_probability
        self.label_smoothing = label_smoothing

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, seed: int | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mixed batch and its targets.

        Args:
            images: float32 (N, height, width, channels); changed in place.
            labels: (N,) class numbers, or (N, K) zeros and ones of several classes an image.
            seed: of `numpy.random.default_rng`, an integer or several.

        Returns:
            images, and float32 (N, K).

        Raises:
            ValueError: a label outside 0..K-1.
        """
        targets = self.smooth(labels)
        generator = np.random.default_rng(seed)
        switch = generator.uniform() < self.switch_probability
        use_cutmix = self.cutmix > 0 and (switch or self.mixup == 0)
        alpha = self.cutmix if use_cutmix else self.mixup
        if alpha == 0:
            return images, targets
        share = generator.beta(alpha, alpha)
        if use_cutmix:
            share = cutmix(images, share, *generator.uniform(size=2))
        else:
            mixup(images, share)
        return images, mixed_targets(targets, share)

    def smooth(self, labels: np.ndarray) -> np.ndarray:
        """(N,) class numbers or (N, K) zeros and ones -> (N, K) float32 with label smoothing.

        Raises:
            ValueError: a label outside 0..K-1, or another number of columns.
        """
        labels = np.asarray(labels)
        if labels.ndim == 2:
            if labels.shape[1] != self.num_classes:
                raise ValueError(
                    f"Labels of shape {labels.shape} are not of num_classes={self.num_classes} classes."
                )
            smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
            return smoothed.astype("float32")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= self.num_classes:
            raise ValueError(
                f"Labels go from {labels.min()} to {labels.max()}, but num_classes={self.num_classes} asks "
                f"for 0 to {self.num_classes - 1}."
            )
        rest = self.label_smoothing / self.num_classes
        targets = np.full((len(labels), self.num_classes), rest, "float32")
        targets[np.arange(len(labels)), labels] = 1 - self.label_smoothing + rest
        return targets


def mixed_targets(targets: np.ndarray, share: float) -> np.ndarray:
    """share of the own targets and the rest of the partner's, (N, K)."""
    return (share * targets + (1 - share) * targets[::-1]).astype(targets.dtype)


def mixup(images: np.ndarray, share: float) -> None:
    """In place: share of the own pixels and the rest of the partner's, (N, height, width, channels)."""
    half = len(images) // 2
    first, second = images[:half], images[::-1][:half]
    moved = (second - first) * np.float32(1 - share)
    first += moved
    second -= moved


def cutmix(images: np.ndarray, share: float, y: float, x: float) -> float:
    """In place: a box is exchanged with the partner.

    Args:
        images: (N, height, width, channels).
        share: of the area outside the box, before the box is cut at the borders.
        y, x: where its middle lies, from 0 to 1 of height and width.

    Returns:
        The share of the area outside the box that was exchanged.
    """
    (height, width), half = images.shape[1:3], len(images) // 2
    side = math.sqrt(1 - share)
    top, bottom = _interval(int(height * side), int(y * height), height)
    left, right = _interval(int(width * side), int(x * width), width)
    first = images[:half, top:bottom, left:right]
    second = images[::-1][:half, top:bottom, left:right]
    first[...], second[...] = second.copy(), first.copy()
    return 1 - (bottom - top) * (right - left) / (height * width)


def _interval(length: int, middle: int, size: int) -> tuple[int, int]:
    return max(middle - length // 2, 0), min(middle + length // 2, size)
