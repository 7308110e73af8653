"""Evaluation of a classifier: top-1 and top-5 accuracy, accuracy by class, confusions, calibration."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from nepa_keras.data import OrderedBatches
from nepa_keras.evaluation.features import predict_filled_up
from nepa_keras.tables import text_table

_BINS = 15  # bins of the calibration error, of equal width
_SHOWN = 10  # classes and confusions in the text of a report


@dataclass(frozen=True)
class ClassificationReport:
    """Results of a classifier with C classes.

    Attributes:
        top1, top5: fraction of images whose class is the most likely one, or among the five most likely
            (among all, if there are fewer than five classes).
        calibration_error: mean absolute difference of confidence and accuracy over bins of confidence,
            weighted by the images in each bin (ECE, arXiv 1706.04599).
        confusion: (C, C) counts; rows are true classes, columns predictions.
        class_names: C names.

    Example:
        >>> logits = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
        >>> report = evaluation.classification_report(logits, np.array([0, 1, 1]), ["cat", "dog"])
        >>> report.confusions()
        [('dog', 'cat', 1)]
    """

    top1: float
    top5: float
    calibration_error: float
    confusion: np.ndarray
    class_names: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def class_accuracies(self) -> np.ndarray:
        """Accuracy of each class, (C,); NaN for classes without images."""
        images = self.confusion.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.diag(self.confusion) / images

    def confusions(self, most: int = _SHOWN) -> list[tuple[str, str, int]]:
        """Most frequent mistakes, at most `most`: true class, predicted class, number of images."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = (np.unravel_index(i, wrong.shape) for i in order)
        return [
            (self.class_names[a], self.class_names[b], int(wrong[a, b]))
            for a, b in pairs
            if wrong[a, b]
        ]

    def figures(self) -> dict:
        """Content as a dictionary that JSON can hold."""
        accuracies = [float(a) if np.isfinite(a) else None for a in self.class_accuracies]
        return {
            "images": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "calibration_error": self.calibration_error,
            "class_accuracies": dict(zip(self.class_names, accuracies, strict=True)),
            "confusion": self.confusion.tolist(),
        }

    def __str__(self) -> str:
        accuracies = self.class_accuracies
        images = self.confusion.sum(axis=1)
        lines = [
            f"{self.count:,} images, {len(self.class_names)} classes: top-1 {100 * self.top1:.2f} %, top-5 "
            f"{100 * self.top5:.2f} %, mean over classes {100 * np.nanmean(accuracies):.2f} %, "
            f"calibration error {100 * self.calibration_error:.2f} %",
        ]
        lines += weakest_classes("accuracy", accuracies, images, self.class_names)
        if mistakes := self.confusions(5):
            lines.append(
                "most frequent mistakes: " + ", ".join(f"{a} for {b} ({n})" for b, a, n in mistakes)
            )
        return "\n".join(lines)


def weakest_classes(
    measure: str, scores: np.ndarray, images: np.ndarray, class_names: Sequence[str]
) -> list[str]:
    """Lines of a table of the classes with the lowest scores, and of the number of classes left out.

    Args:
        measure: name of the score.
        scores: (C,) in [0, 1], NaN for classes without a score.
        images: (C,) number of images of each class.
        class_names: C names.
    """
    order = [i for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    rows = [("class", "images", measure)]
    for i in order[:_SHOWN]:
        rows.append((class_names[i], f"{images[i]}", f"{100 * scores[i]:.1f}%"))
    more = len(order) - _SHOWN
    return [text_table(rows), *([f"and {more} classes of higher {measure}"] if more > 0 else [])]


def classification_report(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None = None
) -> ClassificationReport:
    """Report of logits against the true classes.

    Args:
        logits: (B, C).
        labels: (B,) class numbers.
        class_names: C names; by default the numbers.

    Raises:
        ValueError: shapes do not fit, there are no images, logits are not finite, or labels are outside
            0..C-1.
    """
    logits, labels = np.asarray(logits, "float64"), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits must be (B, C) and labels (B,) with B > 0, got {logits.shape} and {labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integer class numbers, got {labels.dtype}.")
    classes, labels = logits.shape[1], labels.astype("int64")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Labels range from {labels.min()} to {labels.max()}, but the model has {classes} classes."
        )
    if not np.isfinite(logits).all():
        raise ValueError("The logits contain NaN or infinity; check the weights of the model.")
    names = tuple(class_names) if class_names else tuple(str(i) for i in range(classes))
    if len(names) != classes:
        raise ValueError(f"There are {len(names)} class names for {classes} classes.")
    order = np.argsort(-logits, axis=1, kind="stable")  # of equal logits the first class wins
    guess = order[:, 0]
    hits = order == labels[:, None]
    confusion = np.bincount(labels * classes + guess, minlength=classes**2)
    return ClassificationReport(
        top1=float(hits[:, 0].mean()),
        top5=float(hits[:, :5].any(axis=1).mean()),
        calibration_error=calibration_error(logits, labels),
        confusion=confusion.reshape(classes, classes),
        class_names=names,
    )


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = _BINS) -> float:
    """Expected calibration error (arXiv 1706.04599) of the most likely class.

    Bins of confidence are (a, b], of equal width.

    Args:
        logits: (B, C).
        labels: (B,) class numbers.
        bins: number of bins of confidence.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    confidence = 1.0 / np.exp(shifted).sum(axis=1)  # of the largest logit, now 0
    right = logits.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def predict_batches(model: keras.Model, batches: OrderedBatches) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (B, ...) float32 of a model, and the indices (B,) of their images in the source.

    Raises:
        ValueError: no image can be read.
        BadImagesError: more images are bad than the budget of the batches allows.
    """
    outputs, indices = [], []
    with contextlib.closing(iter(batches)) as stream:
        for images, numbers in stream:
            if not len(images):
                continue
            outputs.append(predict_filled_up(model, images, batches.batch_size))
            indices.append(numbers)
    if not outputs:
        raise ValueError("None of the images can be read.")
    return np.concatenate(outputs), np.concatenate(indices)
