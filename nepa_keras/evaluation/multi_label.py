"""Evaluation of a multi-label classifier: average precision of each class, and their mean (mAP)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nepa_keras.evaluation.classification import weakest_classes


@dataclass(frozen=True)
class MultiLabelReport:
    """Results of a multi-label classifier with C classes.

    Attributes:
        mean_average_precision: mean over the classes that have images (macro mAP).
        average_precisions: (C,), NaN for a class without images.
        images: (C,) number of images that show each class.
        f1: micro-averaged F1 over all images and classes; probability 0.5 or more predicts a class.
        count: number of images B.
        class_names: C names.

    Example:
        >>> targets = np.array([[1, 0], [1, 1]])
        >>> report = evaluation.multi_label_report(4.0 * targets - 2, targets, ["cat", "dog"])
        >>> report.mean_average_precision, report.f1
        (1.0, 1.0)
    """

    mean_average_precision: float
    average_precisions: np.ndarray
    images: np.ndarray
    f1: float
    count: int
    class_names: tuple[str, ...]

    def figures(self) -> dict:
        """Content as a dictionary that JSON can hold."""
        precisions = [float(a) if np.isfinite(a) else None for a in self.average_precisions]
        return {
            "images": self.count,
            "mean_average_precision": self.mean_average_precision,
            "f1": self.f1,
            "average_precisions": dict(zip(self.class_names, precisions, strict=True)),
            "images_of_classes": dict(zip(self.class_names, self.images.tolist(), strict=True)),
        }

    def __str__(self) -> str:
        precisions = self.average_precisions
        lines = [
            f"{self.count:,} images, {len(self.class_names)} classes, {self.images.sum() / self.count:.2f} "
            f"labels an image: mAP {100 * self.mean_average_precision:.2f} %, F1 at probability 0.5 "
            f"{100 * self.f1:.2f} %",
        ]
        lines += weakest_classes("average precision", precisions, self.images, self.class_names)
        if without := int(np.isnan(precisions).sum()):
            lines.append(f"{without} classes have no image here and are not in the mean")
        return "\n".join(lines)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under the precision-recall curve as a step function; NaN if there is no positive.

    sum_n (R_n - R_{n-1}) P_n over the distinct scores as thresholds, highest first, without interpolation.

    Args:
        scores: (B,), larger for more likely.
        targets: (B,) zeros and ones.
    """
    order = np.argsort(-scores, kind="stable")
    scores, targets = scores[order], targets[order] > 0
    if not targets.any():
        return float("nan")
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of equal scores
    hits = np.cumsum(targets)[last]
    recall = hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * hits / (last + 1)))


def multi_label_report(
    logits: np.ndarray, targets: np.ndarray, class_names: Sequence[str] | None = None
) -> MultiLabelReport:
    """Report of logits against the classes that the images show.

    Args:
        logits: (B, C).
        targets: (B, C) zeros and ones.
        class_names: C names; by default the numbers.

    Raises:
        ValueError: shapes do not fit, there are no images, logits are not finite, targets are not zeros and
            ones, or no image shows any class.
    """
    logits, targets = np.asarray(logits, "float64"), np.asarray(targets)
    if logits.ndim != 2 or targets.shape != logits.shape or not len(targets):
        raise ValueError(
            f"logits and targets must both be (B, C) with B > 0, got {logits.shape} and {targets.shape}."
        )
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("targets must be zeros and ones: 1 where an image shows a class.")
    if not targets.any():
        raise ValueError("No image shows any of the classes, so there is no precision to average.")
    if not np.isfinite(logits).all():
        raise ValueError("The logits contain NaN or infinity; check the weights of the model.")
    classes = logits.shape[1]
    names = tuple(class_names) if class_names else tuple(str(i) for i in range(classes))
    if len(names) != classes:
        raise ValueError(f"There are {len(names)} class names for {classes} classes.")
    precisions = np.array([average_precision(logits[:, k], targets[:, k]) for k in range(classes)])
    predicted, shown = logits >= 0, targets > 0  # a logit of 0 is a probability of 0.5
    return MultiLabelReport(
        mean_average_precision=float(np.nanmean(precisions)),
        average_precisions=precisions,
        images=shown.sum(axis=0),
        f1=float(2 * (predicted & shown).sum() / (predicted.sum() + shown.sum())),
        count=len(targets),
        class_names=names,
    )
