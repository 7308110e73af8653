"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of a batch with its reverse; soft targets."""

import math
from collections.abc import Sequence

import numpy as np


class MixupCutmix:
    """Mix each image of a batch with its partner in the reversed batch, by mixup or by CutMix.

    Args:
        num_classes: C.
        mixup: alpha of the Beta distribution of mixup's share; 0 for no mixup.
        cutmix: alpha of CutMix, whose share is the area outside the box; 0 for no CutMix.
        switch_probability: probability that a batch gets CutMix if both are on.
        label_smoothing: e; a target is 1 - e + e / C for its class and e / C for others.

    Example:
        >>> mix = data.MixupCutmix(num_classes=10)
        >>> mixed, targets = mix(images.copy(), labels, seed=0)
        >>> mixed.shape, targets.shape
        ((16, 28, 28, 1), (16, 10))
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
        """Mix a batch and make its targets.

        Args:
            images: float32 (B, height, width, channels); changed in place.
            labels: (B,) class numbers, or (B, C) zeros and ones of several classes per image.
            seed: seed for `numpy.random.default_rng`, an integer or several.

        Returns:
            images, and targets float32 (B, C).

        Raises:
            ValueError: a label is outside 0..C-1.
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
        """Targets float32 (B, C) with label smoothing.

        Args:
            labels: (B,) class numbers, or (B, C) zeros and ones.

        Raises:
            ValueError: a label is outside 0..C-1, or the number of columns is not C.
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
    """Targets (B, C): `share` of each image's own and the rest of its partner's."""
    return (share * targets + (1 - share) * targets[::-1]).astype(targets.dtype)


def mixup(images: np.ndarray, share: float) -> None:
    """Mix images (B, height, width, channels) in place: `share` of each image and the rest of its partner."""
    half = len(images) // 2
    first, second = images[:half], images[::-1][:half]
    moved = (second - first) * np.float32(1 - share)
    first += moved
    second -= moved


def cutmix(images: np.ndarray, share: float, y: float, x: float) -> float:
    """Exchange a box between each image and its partner, in place.

    Args:
        images: (B, height, width, channels).
        share: fraction of the area outside the box, before the box is clipped at the borders.
        y, x: centre of the box, from 0 to 1 of height and width.

    Returns:
        The fraction of the area outside the exchanged box.
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
