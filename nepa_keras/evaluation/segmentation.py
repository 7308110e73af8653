"""Scores of semantic segmentation from one confusion matrix over all pixels.

K classes; IoU = true positives / (true positives + false positives + false negatives).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nepa_keras.tables import text_table


@dataclass(frozen=True)
class SegmentationReport:
    """What `SegmentationScores.report` says.

    Attributes:
        miou: mean IoU over the classes that occur in the truth or in the predictions.
        macc: mean accuracy over the classes that occur in the truth.
        aacc: share of the pixels that are right.
        iou, accuracy: (K,), NaN for a class that is not in the mean.
        pixels: (K,), of each class in the truth.
    """

    miou: float
    macc: float
    aacc: float
    iou: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray

    def table(self, class_names: Sequence[str]) -> str:
        """All classes, a line each, and the means; in per cent."""
        rows: list[tuple[str, ...]] = [("class", "IoU", "accuracy", "pixels")]
        for row in zip(class_names, self.iou, self.accuracy, self.pixels, strict=True):
            name, iou, accuracy, pixels = row
            rows.append((name, _percent(iou), _percent(accuracy), f"{pixels:,}"))
        rows.append(("mean", _percent(self.miou), _percent(self.macc)))
        return f"{text_table(rows)}\npixels that are right: {_percent(self.aacc)} %"


class SegmentationScores:
    """Counts pixels by class and prediction, picture by picture; memory K * K.

    Args:
        num_classes: K.
        ignore_label: of pixels that do not count.

    Attributes:
        confusion: int64 (K, K), pixels of class i taken for j.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255):
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.confusion = np.zeros((num_classes, num_classes), np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Counts pixels.

        Args:
            labels, predictions: integers of one shape.

        Raises:
            ValueError: other shapes, or a class that there is not.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape:
            raise ValueError(f"Labels {labels.shape} and predictions {predictions.shape} differ.")
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
        """Scores of all that was counted; means over nothing are NaN."""
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
