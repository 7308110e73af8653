"""Images listed in a CSV file, one per row: a path and labels."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nepa_keras.data.labels import NAMES, UNLABELLED, in_order
from nepa_keras.data.sources.columns import (
    ANY,
    Columns,
    check_column,
    labels_of,
    note_on_labels,
    separator_note,
)
from nepa_keras.data.sources.files import FileSource
from nepa_keras.data.sources.imagenet import kaggle_classes, kaggle_images
from nepa_keras.data.sources.walk import ending, image_endings, listed
from nepa_keras.files import printable

_PATHS = (
    "path image image_path img_path file filename file_name filepath file_path image_name imagename img "
    "image_id imageid id"
).split()
_BOXES = "PredictionString"  # column of Kaggle's tables: "class left top right bottom", repeated
_LABELS = (*NAMES, "class_name", "label_name", "tags", _BOXES.lower())
_DELIMITERS = ",;\t|"
_LARGEST_CELL = 2**24  # characters


class _Row(NamedTuple):
    line: int
    path: str
    label: str


def csv_source(
    file: str | Path,
    root: str | Path | None = None,
    columns: Columns = ANY,
    with_labels: bool = False,
) -> FileSource:
    """Open the images that a CSV file with a header lists; the delimiter is a comma, semicolon, tab or bar.

    Paths are relative to the folder of the CSV file, or to `root`. A path without the ending of an image
    format, such as an identifier, refers to the file of that name with an ending. Labels are names of
    classes, or class numbers if all are whole numbers; an empty cell means an image without a label, with
    `multi_label` one that shows none of the classes. An image in several rows counts once; its labels must
    agree, or with `multi_label` are joined. In Kaggle's `LOC_val_solution.csv` the class is the first word of
    PredictionString, and the images are in `ILSVRC/Data/CLS-LOC/val`.

    Args:
        file: the CSV file.
        root: folder to which the paths are relative.
        columns: which columns hold paths and labels.
        with_labels: whether to read the labels.

    Raises:
        ValueError: the file, a column or all images are missing, the file is damaged, or labels are invalid.
    """
    table = Path(file).expanduser()
    header, rows = _read(table)
    path = _path_column(columns, header, table)
    label = _label_column(columns, header, path, table)
    kept = [
        _Row(
            line, row[header.index(path)].strip(), row[header.index(label)].strip() if label else ""
        )
        for line, row in rows
    ]
    root = Path(root).expanduser() if root else kaggle_images(table) or table.parent
    files, missing = _located(root, kept, table)
    unique = {name: i for i, name in reversed(list(enumerate(files)))}  # path -> its first row
    names, numbers = None, None
    notes: list[str] = []
    if with_labels and label is not None:
        cells, lines = _cells(files, kept, unique, columns, label == _BOXES)

        def where(index: int) -> str:
            return f"{table}, line {lines[index]}, column {label}"

        numbers, names = _numbers(cells, columns, where, _known_classes(table, label))
        texts = [label for cell in cells for label in cell] if columns.multi_label else cells
        notes += separator_note(texts, columns, str(table))
        if columns.multi_label and (none := int((~numbers.any(axis=1)).sum())):
            notes.append(
                f"Images of {table} with an empty cell, which show none of the classes: {none:,}."
            )
    source = FileSource(sorted(unique, key=unique.__getitem__), numbers, names)
    source.notes += tuple(notes)
    if missing:
        source.notes += (
            f"Of the {len(unique):,} images that {table} names, {len(missing):,} cannot be found and count "
            f"as bad images: {listed(missing)}.",
        )
    if repeated := len(kept) - len(unique):
        source.notes += (
            f"Rows of {table} that name an image again: {repeated:,}; each image counts once.",
        )
    if with_labels:
        source.notes += note_on_labels(columns, label, header, str(table))
    return source


def _read(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header of a CSV file, and its rows with their line numbers."""
    if not table.is_file():
        raise ValueError(f"There is no file {table}; pass an existing one as csv:FILE.")
    csv.field_size_limit(_LARGEST_CELL)
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 text ({error}); save it as CSV UTF-8.") from None
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)  # a comma if there is none
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num} is damaged: {error}.") from None
    if not rows:
        raise ValueError(f"{table} holds no row below its header.")
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{table}, line {line} has {len(row)} cells where the header has {len(header)}; put a cell "
                "that holds the delimiter into quotes."
            )
    return header, rows


def _path_column(columns: Columns, header: list[str], table: Path) -> str:
    if columns.image is not None:
        return check_column(columns.image, "image", header, str(table))
    named = {name.lower(): name for name in reversed(header)}
    if found := next((named[name] for name in _PATHS if name in named), None):
        return found
    if any(ending(name) in image_endings() for name in header):
        raise ValueError(
            f"{table} has an image in its first line; write a header above it, such as path,label."
        )
    raise ValueError(
        f"{table} has the columns {listed(header)}; say which holds the paths of the images by "
        "--image_column (image_column= in Python)."
    )


def _label_column(columns: Columns, header: list[str], path: str, table: Path) -> str | None:
    if columns.label is not None:
        return check_column(columns.label, "label", header, str(table))
    named = {name.lower(): name for name in reversed(header) if name != path}
    found = next((named[name] for name in _LABELS if name in named), None)
    return found or (next(iter(named.values())) if len(named) == 1 else None)


def _located(root: Path, rows: Sequence[_Row], table: Path) -> tuple[list[str], list[str]]:
    """File of each row, and the files that do not exist; each folder is listed once.

    Raises:
        ValueError: a row has no path, several files match a name, or none of the files exists.
    """
    start = "" if root == Path() else root  # keep the names of the file unchanged
    held: dict[str, dict[str, list[str]]] = {}
    files: list[str] = []
    missing: dict[str, None] = {}
    for line, name, _ in rows:
        if not name:
            raise ValueError(f"{table}, line {line} names no image.")
        if "://" in name:
            raise ValueError(
                f"{table}, line {line}: {printable(name)} is an address; images are read from disk, so "
                "download them and name their paths."
            )
        path = os.path.join(start, name if "/" in name else name.replace("\\", "/"))
        parent, base = os.path.split(path)
        if parent not in held:
            held[parent] = _names_in(parent or ".")
        there = held[parent].get(base, [])
        if len(there) > 1:
            raise ValueError(
                f"{table}, line {line}: {printable(name)} may be {listed(there)}; write the ending."
            )
        files.append(os.path.join(parent, there[0]) if there else path)
        if not there:
            missing[path] = None
    if len(missing) == len(set(files)):
        raise ValueError(
            f"None of the {len(missing):,} images that {table} names exists, the first would be "
            f"{printable(files[0])}; name the folder that the paths start from by --data_dir (data_dir= in "
            "Python)."
        )
    return files, list(missing)


def _names_in(folder: str) -> dict[str, list[str]]:
    """Names by which images in a folder may be listed, with and without ending -> names of files."""
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):  # ValueError: NUL character in the path
        return {}
    found: dict[str, list[str]] = {}
    endings = image_endings()
    for name in names:
        if ending(name) in endings:
            found.setdefault(os.path.splitext(name)[0], []).append(name)
    return found | {name: [name] for name in names}


def _cells(
    files: Sequence[str],
    rows: Sequence[_Row],
    unique: dict[str, int],
    columns: Columns,
    boxes: bool,
) -> tuple[list, list[int]]:
    """Label of each image (a text, or a list of texts) in the order of first rows, and its line.

    Raises:
        ValueError: rows of one image disagree.
    """
    held: dict[str, str | list[str]] = {}
    order = sorted(unique, key=unique.__getitem__)
    for file, row in zip(files, rows, strict=True):
        cell: str | list[str] = _classes_of_boxes(row.label) if boxes else row.label
        if boxes and not columns.multi_label:
            cell = cell[0] if cell else ""
        elif columns.multi_label and not boxes:
            parts = row.label.split(columns.separator) if columns.separator else [row.label]
            cell = [part.strip() for part in parts if part.strip()]
        if file in held and columns.multi_label:
            held[file] += cell  # type: ignore[operator]
        elif held.setdefault(file, cell) != cell:
            first = rows[unique[file]]
            raise ValueError(
                f"{printable(file)} has the label {first.label!r} in line {first.line} and {row.label!r} in "
                f"line {row.line}; several labels of one image are read with multi_label=True, "
                "--multi_label of finetune.py and evaluate.py."
            )
    return [held[file] for file in order], [rows[unique[file]].line for file in order]


def _classes_of_boxes(text: str) -> list[str]:
    """Classes in "n01751748 111 108 230 366 n01751748 …", where four numbers follow each class."""
    return list(dict.fromkeys(text.split()[::5]))


def _known_classes(table: Path, label: str) -> tuple[str, ...] | None:
    return kaggle_classes(table) if label == _BOXES else None


def _numbers(cells: list, columns: Columns, where, names):
    """Class numbers or a matrix of labels that are text."""
    if columns.multi_label:
        convert = _conversion([label for cell in cells for label in cell], names)
        return labels_of([[convert(x) for x in cell] for cell in cells], columns, where, names)
    labelled = [i for i, cell in enumerate(cells) if cell]
    if not labelled:
        raise ValueError(f"{where(0)} and all others are empty.")
    convert = _conversion([cells[i] for i in labelled], names)
    found, names = labels_of(
        [convert(cells[i]) for i in labelled], columns, lambda i: where(labelled[i]), names
    )
    numbers = np.full(len(cells), UNLABELLED, "int32")
    numbers[labelled] = found
    return numbers, names


def _conversion(texts: Iterable[str], names: Sequence[str] | None):
    """Function from the text of a label to the label: numbers if all are numbers without leading zeros."""
    unique = in_order(texts)
    if names is None:
        for kind in (int, float):
            try:
                numbers = [kind(text) for text in unique]
            except ValueError:
                continue
            if kind is float or all(
                text == str(n) for text, n in zip(unique, numbers, strict=True)
            ):
                return kind
            return str
    return str
