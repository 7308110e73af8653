"""Translation of a source's class numbers to the order of a model's classes."""

import copy
from collections.abc import Sequence

import numpy as np

from nepa_keras.data.sources.base import ImageSource


def with_classes(
    source: ImageSource, class_names: Sequence[str] | None, num_classes: int
) -> ImageSource:
    """Number the labels of a source as a model numbers its classes.

    A source numbers only the classes that it holds, so a validation folder that lacks one numbers them
    differently from the training data. If source and model both have names of classes and share some, labels
    are matched by name; otherwise numbers stay as they are.

    Args:
        source: a labelled source.
        class_names: names of the model's classes, or None.
        num_classes: number of the model's classes.

    Raises:
        ValueError: the source has classes that the model does not have.
    """
    labels, theirs = source.labels, source.class_names
    assert labels is not None, "with_classes is for labelled images"
    if theirs and class_names and set(theirs) & set(class_names):
        unknown = [name for name in theirs if name not in set(class_names)]
        if unknown:
            shown = ", ".join(unknown[:5])
            raise ValueError(
                f"The images have {len(unknown)} classes that the model does not know: {shown}."
            )
        number = np.array([list(class_names).index(name) for name in theirs])
        renumbered = copy.copy(source)
        if source.multi_label:
            renumbered.labels = _in_columns(labels, number, num_classes)
        else:
            renumbered.labels = np.where(labels >= 0, number[labels], -1).astype("int32")
        renumbered.class_names = tuple(class_names)
        return renumbered
    largest = labels.shape[1] - 1 if source.multi_label else int(labels.max())
    if largest >= num_classes:
        raise ValueError(
            f"The images have classes up to number {largest}, the model has {num_classes}."
        )
    if source.multi_label and largest < num_classes - 1:
        source = copy.copy(source)
        source.labels = _in_columns(labels, np.arange(largest + 1), num_classes)
        source.class_names = None  # they name fewer classes than the model has
    return source


def _in_columns(labels: np.ndarray, number: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels (B, C) moved to the columns `number`, (B, num_classes)."""
    columns = np.zeros((len(labels), num_classes), labels.dtype)
    columns[:, number] = labels
    return columns
