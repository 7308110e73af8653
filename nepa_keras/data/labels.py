"""Labels as data sets store them, and the class numbers they stand for."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NAMES = ("label", "labels", "fine_label", "class", "category", "target")  # of columns and keys
UNLABELLED = -1  # label of an image that has none
_LARGEST = np.iinfo("int32").max
_SHOWN = 5


def class_numbers(
    labels: ArrayLike,
    where: Callable[[int], str] = "label {}".format,
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Class numbers int32 (B,) of labels, and the names of the classes, if they have any.

    Labels are either whole numbers from 0 on, or -1 for none, of any type (whole floats and Boolean arrays
    included), or strings, which are names of classes. Names are numbered in the order of `class_names`, by
    default that of `in_order`.

    Args:
        labels: (B,).
        where: function from the index of a label to a description of where it is, for messages.
        class_names: name of each class, if known.

    Raises:
        ValueError: a label is anything else, or has no name in `class_names`; the message says where it is.
    """
    array = _as_array(labels)
    known = None if class_names is None else tuple(class_names)
    if array.ndim != 1:
        raise ValueError(
            f"Labels of shape {array.shape} are not one class number an image; several of one image "
            "(multi-label) and one-hot rows are labels (N, classes) of zeros and ones of a source."
        )
    if array.dtype.kind not in "biuf":
        values = array.tolist()
        check = _reason_of_name if values and isinstance(values[0], str) else _reason
        for i, value in enumerate(values):
            if reason := check(value):
                raise ValueError(f"{where(i)}: {reason}.")
        if check is _reason_of_name:
            return _numbers_of_names(values, where, known)
    elif array.dtype.kind != "b":
        values = array.astype("float64") if array.dtype.kind == "f" else array
        good = (values >= UNLABELLED) & (values <= _LARGEST) & (values == np.floor(values))
        if not good.all():
            first = int(np.argmin(good))
            raise ValueError(f"{where(first)}: {_reason(array[first].item())}.")
    numbers = array.astype("int32")
    if known is not None and numbers.max(initial=UNLABELLED) >= len(known):
        first = int(np.argmax(numbers >= len(known)))
        raise ValueError(
            f"{where(first)}: {numbers[first]} is beyond the names of classes, which are 0 to "
            f"{len(known) - 1}."
        )
    return numbers, known


def _numbers_of_names(
    names: list[str], where: Callable[[int], str], known: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    known = known or in_order(names)
    number = {name: i for i, name in enumerate(known)}
    for i, name in enumerate(names):
        if name not in number:
            raise ValueError(f"{where(i)}: {name!r} is none of the classes.")
    return np.array([number[name] for name in names], "int32"), known


def _as_array(labels: ArrayLike) -> np.ndarray:
    if hasattr(labels, "__array__"):
        return np.asarray(labels)
    values = list(labels) if isinstance(labels, Iterable) else [labels]
    return np.fromiter(values, object, len(values))  # objects, so that True is not taken for 1


def _reason_of_name(value: Any) -> str | None:
    """Fault of a label where the others are names of classes; None if it is valid."""
    if isinstance(value, str) and value.strip():
        return None
    return _reason(value) or f"the label {value} is a number, and others are names"


def _reason(value: Any) -> str | None:
    """Fault of a label where the others are numbers; None if it is valid."""
    if value is None:
        return f"the label is null; write {UNLABELLED} for an image without one"
    if isinstance(value, (list, tuple, dict, np.ndarray)):
        return (
            "several labels of one image (multi-label) are read with multi_label=True (--multi_label of "
            "finetune.py and evaluate.py); else one class number is needed"
        )
    if isinstance(value, bool):
        return f"the label {str(value).lower()} is not a class number; write 0 and 1"
    if isinstance(value, str):
        return (
            f"the label {value!r} is a name, and others are not"
            if value.strip()
            else "the label is empty"
        )
    if not isinstance(value, (int, float)):
        return f"the label {value!r} is not a class number"
    if value != value:
        return "the label is NaN"
    if value in (float("inf"), float("-inf")) or value != int(value):
        return f"the label {value} is not a whole number; regression targets are not supported"
    if value < UNLABELLED:
        return f"the label {value} is negative; classes count from 0, and {UNLABELLED} is for none"
    if value > _LARGEST:
        return f"the label {value} is larger than any class number"
    return None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted unique names of classes; by value if all are numbers (2 before 10)."""
    unique = set(names)
    if all(name.isdecimal() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def empty_classes(numbers: np.ndarray, class_names: Sequence[str] | None) -> str | None:
    """Sentence that names classes without an image; None if every class has one.

    Args:
        numbers: (B,) class numbers, negative for none.
        class_names: name of each class, or None if the largest number determines how many there are.
    """
    held = np.unique(numbers[numbers >= 0])
    if not len(held):
        return None
    count = len(class_names) if class_names else int(held[-1]) + 1
    missing = count - len(held)
    if not missing:
        return None
    first = np.setdiff1d(np.arange(min(count, len(held) + _SHOWN)), held)[:_SHOWN]
    shown = ", ".join(class_names[i] if class_names else str(i) for i in first)
    more = ", …" if missing > len(first) else ""
    one = "labels that count from 1 make a class too many" if held[0] == 1 else ""
    hint = f" ({one})" if one and not class_names else ""
    return f"{missing:,} of the {count:,} classes have no image: {shown}{more}{hint}."
