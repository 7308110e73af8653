"""Class numbers of one source in the order of another's classes."""

import copy
from collections.abc import Sequence

import numpy as np

from nepa_keras.data.sources.base import ImageSource


def with_classes(
    source: ImageSource, class_names: Sequence[str] | None, num_classes: int
) -> ImageSource:
    """A source whose labels count a model's classes.

    Sources number the classes they hold, so a validation folder that lacks one counts otherwise. Where both
    have names and share some, labels are assigned by name; else numbers are taken as they are.

    Args:
        source: labelled.
        class_names: of the model, or None.
        num_classes: of the model.

    Raises:
        ValueError: some of the source's classes the model does not have.
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
        source.class_names = None  # of fewer classes
    return source


def _in_columns(labels: np.ndarray, number: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels (N, K) in columns of other numbers, (N, num_classes)."""
    columns = np.zeros((len(labels), num_classes), labels.dtype)
    columns[:, number] = labels
    return columns
