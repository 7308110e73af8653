"""Multi-label targets: several labels per image, as rows of a matrix of zeros and ones."""

from collections.abc import Callable, Sequence

import numpy as np

from nepa_keras.data.labels import class_numbers


def label_matrix(
    sets: Sequence[Sequence],
    where: Callable[[int], str] = "label {}".format,
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Matrix uint8 (B, C), 1 where image i has class k, and the names of the classes, if they have any.

    Args:
        sets: the labels of each image, N of any length: class numbers or names of classes. An empty one is of
            an image that shows none of the classes. Rows of zeros and ones, one per class, are kept as they
            are; they differ from class numbers in that some row holds a number twice, and are refused where
            none does.
        where: function from the index of an image to a description of where its labels are, for messages.
        class_names: name of each class, if known.

    Raises:
        ValueError: there is no label at all, class numbers cannot be told from rows of zeros and ones, or
            `class_numbers` refuses a label.
    """
    lengths = [len(each) if isinstance(each, (list, tuple, np.ndarray)) else -1 for each in sets]
    if -1 in lengths:
        raise ValueError(
            f"{where(lengths.index(-1))}: the cell is null; write an empty list for an image of no class."
        )
    owner = np.repeat(np.arange(len(lengths)), lengths)
    flat = [label for each in sets for label in each]
    if not flat:
        raise ValueError(f"{where(0)} and all others have no label.")
    if len(set(lengths)) == 1 and _are_bits(flat):
        if any(len(set(each)) < len(each) for each in sets):
            names = None if class_names is None else tuple(class_names)
            return check_matrix(np.array([list(each) for each in sets]), names), names
        if lengths[0] == 2:
            raise ValueError(
                f"{where(0)} and all others are a 0 and a 1, which may be class numbers or a row of zeros "
                "and ones; give names of classes, or for one class per image leave out multi_label."
            )
    numbers, names = class_numbers(flat, lambda i: where(int(owner[i])), class_names)
    held = numbers >= 0
    matrix = np.zeros((len(lengths), len(names) if names else int(numbers.max()) + 1), np.uint8)
    matrix[owner[held], numbers[held]] = 1
    return matrix, names


def _are_bits(labels: list) -> bool:
    """True if all labels are the numbers 0 and 1."""
    numbers = all(isinstance(label, (bool, int, float, np.generic)) for label in labels)
    return numbers and set(labels) <= {0, 1}


def check_matrix(labels: np.ndarray, class_names: Sequence[str] | None) -> np.ndarray:
    """Check labels and return them as uint8 (B, C).

    Raises:
        ValueError: they are not zeros and ones, or there are not as many classes as names.
    """
    if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"Labels of shape {labels.shape} are several of one image (multi-label): 1 for each class it "
            "shows and 0 for the others, but these hold other values."
        )
    if class_names is not None and len(class_names) != labels.shape[1]:
        raise ValueError(
            f"There are {len(class_names)} names of classes for labels of {labels.shape[1]} classes."
        )
    return labels.astype(np.uint8)
