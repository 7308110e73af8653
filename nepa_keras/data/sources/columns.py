"""Columns of tables (CSV, parquet, Arrow): which one holds the images, which one their labels."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nepa_keras.data.label_matrix import label_matrix
from nepa_keras.data.labels import NAMES, class_numbers
from nepa_keras.data.sources.json_text import names_of_classes
from nepa_keras.data.sources.walk import listed


class Columns(NamedTuple):
    """Columns that hold images and labels, as far as the user specifies them.

    Attributes:
        image: name of the column of images or of their paths; None to find it.
        label: name of the column of labels; None to find it.
        multi_label: whether an image may have several labels.
        separator: text between the labels in a cell; None if a cell is one label.
    """

    image: str | None = None
    label: str | None = None
    multi_label: bool = False
    separator: str | None = None


ANY = Columns()  # nothing specified: columns are found by names and types


def check_column(name: str, role: str, columns: Sequence[str], path: str) -> str:
    """Check that a table has a column, and return the column's name.

    Args:
        name: name of the column.
        role: "image" or "label".
        columns: columns of the table.
        path: path of the table, for messages.

    Raises:
        ValueError: there is no such column.
    """
    if name not in columns:
        raise ValueError(
            f"{path} has no column {name} ({role}_column, --{role}_column), but {listed(columns)}."
        )
    return name


def features_of(described: Any, path: str) -> dict[str, Any]:
    """Description of each column by Hugging Face `datasets`.

    Raises:
        ValueError: it is damaged.
    """
    if described is None:
        return {}
    if not isinstance(described, dict):
        raise ValueError(f"{path} is damaged: its features are no JSON object.")
    return {name: kind for name, kind in described.items() if isinstance(kind, (dict, list))}


def label_column(
    columns: Columns, names: list[str], image: str, features: dict[str, Any], path: str
) -> str | None:
    """Column of labels: the given one, else one of a known name, else the first ClassLabel; None without any.

    Raises:
        ValueError: there is no column of the given name.
    """
    if columns.label is not None:
        return check_column(columns.label, "label", names, path)
    names = [name for name in names if name != image]
    classes = [name for name in names if _class_label(features.get(name)) is not None]
    return next((name for name in (*NAMES, *classes) if name in names), None)


def class_names(features: dict[str, Any], column: str | None, path: str) -> tuple[str, ...] | None:
    """Names of the classes of a column that is a ClassLabel, or a list of them; else None."""
    described = _class_label(features.get(column or ""))
    return names_of_classes((described or {}).get("names"), path)


def _class_label(described: Any) -> dict | None:
    """Description of a ClassLabel, alone or in a list, in the forms that versions of `datasets` write."""
    if isinstance(described, list):
        described = described[0] if len(described) == 1 else None
    elif isinstance(described, dict) and isinstance(described.get("feature"), dict):
        described = described["feature"]
    if isinstance(described, dict) and described.get("_type") == "ClassLabel":
        return described
    return None


def note_on_labels(
    columns: Columns, column: str | None, names: Sequence[str], path: str
) -> tuple[str, ...]:
    """Sentences on which column holds the labels, if the user did not specify it."""
    if column is None:
        return (
            f"{path} has no column of labels ({', '.join(NAMES)}), but {listed(names)}; --label_column names "
            "another.",
        )
    if columns.label is None and column.lower() not in NAMES[:2]:
        return (f"The labels of {path} are its column {column}.",)
    return ()


def labels_of(
    values: Sequence | np.ndarray,
    columns: Columns,
    where: Callable[[int], str],
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Class numbers (B,), or a matrix (B, C) of several labels per image, and the names of the classes.

    Args:
        values: values of the cells: a number, a text, or a list of either.
        columns: whether a cell may hold several labels, and their separator.
        where: see `class_numbers`.
        names: names of the classes, if known.

    Raises:
        ValueError: see `class_numbers` and `label_matrix`.
    """
    if not columns.multi_label:
        return class_numbers(values, where, names)
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return label_matrix([_several(value, columns.separator) for value in values], where, names)


def several_parts(value: Any, separator: str | None) -> list:
    """Labels of an image as a list, from a list or from a text with separators."""
    values = value if isinstance(value, list) else [value]
    texts = [v.split(separator) if separator and isinstance(v, str) else [v] for v in values]
    parts = [part.strip() if isinstance(part, str) else part for some in texts for part in some]
    return [part for part in parts if part != ""]


def _several(value: Any, separator: str | None) -> Any:
    """Labels of a cell as a list; None for a null cell."""
    if value is None or isinstance(value, list):
        return value
    if not isinstance(value, str):
        return [value]
    return (
        [part.strip() for part in value.split(separator) if part.strip()] if separator else [value]
    )


def separator_note(values: Sequence | np.ndarray, columns: Columns, path: str) -> tuple[str, ...]:
    """Sentence for cells of text that look like several labels without a separator being specified."""
    if columns.separator:
        return ()
    texts = [value for value in values if isinstance(value, str)]
    # Names of classes may hold commas and spaces.
    for separator in ("|", ";", ",", " ") if columns.multi_label else ("|", ";"):
        found = next((text for text in texts if separator in text.strip(f"{separator} ")), None)
        if found and not columns.multi_label:
            return (
                f"Each cell of labels of {path} counts as the name of one class, such as {found!r}; several "
                f"labels are read by --multi_label --label_separator={separator!r} of finetune.py and "
                "evaluate.py.",
            )
        if found:
            return (
                f"Each cell of labels of {path} counts as one label, such as {found!r}; if it holds several, "
                f"say what separates them: --label_separator={separator!r}.",
            )
    return ()
