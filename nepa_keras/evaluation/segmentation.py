"""Metrics of semantic segmentation, from one confusion matrix over all pixels.

IoU = true positives / (true positives + false positives + false negatives), of C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nepa_keras.tables import text_table


@dataclass(frozen=True)
class SegmentationReport:
    """Results of `SegmentationScores.report`, each in [0, 1].

    Attributes:
        miou: mean IoU over the classes that occur in the labels or in the predictions.
        macc: mean accuracy over the classes that occur in the labels.
        aacc: fraction of the pixels that are classified correctly.
        iou, accuracy: (C,), NaN for a class that its mean leaves out.
        pixels: (C,) number of pixels of each class in the labels.

    Example:
        >>> scores = evaluation.SegmentationScores(num_classes=2)
        >>> scores.update(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 0]]))
        >>> print(scores.report().table(["sky", "sea"]))
        class    IoU  accuracy  pixels
        sky    66.67    100.00       2
        sea    50.00     50.00       2
        mean   58.33     75.00
        pixel accuracy: 75.00 %
    """

    miou: float
    macc: float
    aacc: float
    iou: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray

    def table(self, class_names: Sequence[str]) -> str:
        """Table of IoU and accuracy in percent, one class per line, then the means."""
        rows: list[tuple[str, ...]] = [("class", "IoU", "accuracy", "pixels")]
        for row in zip(class_names, self.iou, self.accuracy, self.pixels, strict=True):
            name, iou, accuracy, pixels = row
            rows.append((name, _percent(iou), _percent(accuracy), f"{pixels:,}"))
        rows.append(("mean", _percent(self.miou), _percent(self.macc)))
        return f"{text_table(rows)}\npixel accuracy: {_percent(self.aacc)} %"


class SegmentationScores:
    """Confusion matrix of pixels, updated image by image.

    Args:
        num_classes: C.
        ignore_label: label of pixels that are not counted.

    Attributes:
        confusion: (C, C) int64 counts of pixels; rows are labels, columns predictions.

    Example:
        >>> scores = evaluation.SegmentationScores(num_classes=2)
        >>> scores.update(labels=np.array([[0, 1, 255]]), predictions=np.array([[0, 1, 0]]))
        >>> scores.report().aacc
        1.0
    """

    def __init__(self, num_classes: int, ignore_label: int = 255):
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.confusion = np.zeros((num_classes, num_classes), np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Count the pixels of one or several images.

        Args:
            labels, predictions: class numbers, integer arrays of the same shape.

        Raises:
            ValueError: the shapes differ, or a class number is outside 0..C-1.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape:
            raise ValueError(
                f"Labels {labels.shape} and predictions {predictions.shape} must have the same shape."
            )
        counts = labels != self.ignore_label
        labels, predictions = (x[counts].astype(np.int64) for x in (labels, predictions))
        for name, values in (("label", labels), ("prediction", predictions)):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(
                    f"A {name} is {values.min() if values.min() < 0 else values.max()}; classes are 0 to "
                    f"{self.num_classes - 1}."
                )
        flat = np.bincount(self.num_classes * labels + predictions, minlength=self.num_classes**2)
        self.confusion += flat.reshape(self.confusion.shape)

    def report(self) -> SegmentationReport:
        """Metrics of all pixels counted so far; a mean over no class is NaN."""
        right = np.diag(self.confusion)
        truth, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        iou = _ratio(right, truth + predicted - right)
        accuracy = _ratio(right, truth)
        aacc = _ratio(right.sum(keepdims=True), truth.sum(keepdims=True))
        return SegmentationReport(_mean(iou), _mean(accuracy), float(aacc[0]), iou, accuracy, truth)


def _ratio(a, b) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


def _mean(values) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"
