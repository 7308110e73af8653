"""Hugging Face data sets on disk: parquet files, and Arrow folders written by `save_to_disk`."""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

import numpy as np

from nepa_keras.data.decode import ImageError, read_file
from nepa_keras.data.network import NetworkError, scheme
from nepa_keras.data.order import WINDOW
from nepa_keras.data.sources.base import ImageSource, size_of
from nepa_keras.data.sources.columns import (
    ANY,
    Columns,
    check_column,
    class_names,
    features_of,
    label_column,
    labels_of,
    note_on_labels,
    separator_note,
)
from nepa_keras.data.sources.json_text import json_object
from nepa_keras.data.sources.places import of_each_file, path_or_file
from nepa_keras.files import printable
from nepa_keras.packages import required_for

STATE = "state.json"  # in a folder written by `save_to_disk`


def _pyarrow():
    with required_for("Reading parquet and Arrow files", "pyarrow"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def _holds_images(kind) -> bool:
    """True if a column of this type can hold encoded images."""
    arrow = _pyarrow().types
    if arrow.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return arrow.is_binary(kind) or arrow.is_large_binary(kind)


def _image_column(schema, path: str, given: str | None) -> str:
    """Name of the column of images: a struct with `bytes`, or binary; preferably named "image".

    Args:
        schema, path: schema and path of the table.
        given: name that the user gave, also of a column of paths; or None.

    Raises:
        ValueError: there is none.
    """
    arrow = _pyarrow().types
    if given is not None:
        check_column(given, "image", schema.names, path)
        kind = schema.field(given).type
        if _holds_images(kind) or arrow.is_string(kind) or arrow.is_large_string(kind):
            return given
        raise ValueError(
            f"The column {given} of {path} holds {kind}, no images (a struct with bytes, binary, or paths)."
        )

    columns = [field.name for field in schema if _holds_images(field.type)]
    if not columns:
        raise ValueError(
            f"{path} has no column of images (a struct with bytes, or binary), but {schema.names}; one of "
            "paths is named by --image_column (image_column= in Python)."
        )
    return "image" if "image" in columns else columns[0]


def _opened(path: str, opener):
    """Result of `opener` for a path, or for the file object of a path over the network.

    Raises:
        ValueError: the file is damaged or of another format.
    """
    try:
        return opener(path_or_file(path))
    except NetworkError:
        raise
    except (OSError, ValueError, _pyarrow().ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _values(column) -> np.ndarray:
    """Labels of a column, as an array of numbers if all are numbers."""
    types = _pyarrow().types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kinds = (types.is_integer, types.is_floating, types.is_boolean)
    if not column.null_count and any(is_kind(column.type) for is_kind in kinds):
        return column.to_numpy()
    return np.fromiter(column.to_pylist(), object, len(column))


def _content(value, folder: Path | None) -> bytes:
    """Encoded image of a cell; an image that is only a path must be below the table's folder.

    Raises:
        ImageError: the cell is empty, or its path leads outside the folder.
    """
    if isinstance(value, str):
        value = {"path": value}
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if value is None and isinstance(path, str) and path:
            if folder is None:
                raise ImageError(
                    f"the cell has only a path, {printable(path)}, not read over the network"
                )
            file = Path(os.path.realpath(folder / path.replace("\0", "?")))
            if not file.is_relative_to(os.path.realpath(folder)):
                raise ImageError(f"its path {printable(path)} is not below {folder}")
            return read_file(file)
    if not isinstance(value, bytes):
        raise ImageError("the cell is empty")
    return value


class ParquetSource(ImageSource):
    """Rows of parquet files.

    A row group is read as a whole. The groups of the last windows of `epoch_order` are kept in memory, and
    `chunks` tells it where groups end.

    Args:
        paths: the files.
        with_labels: whether to read the labels.
        columns: which columns hold images and labels.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: a file is damaged, or has no column of images or no rows.
    """

    def __init__(self, paths: list[str], with_labels: bool = False, columns: Columns = ANY):
        parquet = _pyarrow().parquet
        self.paths = paths
        files = of_each_file(lambda path: _opened(path, parquet.ParquetFile), paths)
        schema = files[0].schema_arrow
        self.image = _image_column(schema, paths[0], columns.image)
        self.groups = [(i, g) for i, f in enumerate(files) for g in range(f.num_row_groups)]
        sizes = [files[i].metadata.row_group(g).num_rows for i, g in self.groups]
        self.chunks = np.array([0, *accumulate(sizes)])
        if not self.chunks[-1]:
            raise ValueError(f"{paths[0]} holds no row.")
        self.kept: OrderedDict = OrderedDict()  # row groups, least recently used first
        self.lock = threading.Lock()
        self.most_rows = 2 * (WINDOW + max(sizes))
        info = json_object((schema.metadata or {}).get(b"huggingface", b"{}"), paths[0]).get("info")
        features = features_of(info.get("features") if isinstance(info, dict) else None, paths[0])
        column = label_column(columns, schema.names, self.image, features, paths[0])
        names = class_names(features, column, paths[0])
        needed = {self.image, *([column] if with_labels and column else [])}
        for path, file in zip(paths, files, strict=True):
            if lacking := needed - set(file.schema_arrow.names):
                raise ValueError(f"{path} has no column {min(lacking)}, as {paths[0]} has.")
        labels, values = None, np.empty(0)
        if with_labels and column is not None:
            parts = [
                _opened(path, lambda _, file=file: _values(file.read([column])[column]))
                for path, file in zip(paths, files, strict=True)
            ]
            values = np.concatenate(parts)
            labels, names = labels_of(
                values, columns, lambda i: f"{self.name(i)}, column {column}", names
            )
        super().__init__(labels, names)
        if with_labels:
            self.notes += note_on_labels(columns, column, schema.names, paths[0])
            self.notes += separator_note(values, columns, paths[0])

    def __len__(self) -> int:
        return int(self.chunks[-1])

    def _group(self, group: int):
        with self.lock:
            if group not in self.kept:
                file, row_group = self.groups[group]
                opened = _pyarrow().parquet.ParquetFile(path_or_file(self.paths[file]))
                self.kept[group] = opened.read_row_group(row_group, [self.image])[self.image]
                while len(self.kept) > 1 and sum(map(len, self.kept.values())) > self.most_rows:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(group)
            return self.kept[group]

    def read(self, index: int) -> bytes:
        group = bisect_right(self.chunks, index) - 1
        try:
            cell = self._group(group)[int(index - self.chunks[group])].as_py()
        except NetworkError:
            raise
        except (OSError, ValueError, _pyarrow().ArrowException) as error:
            raise ImageError(f"damaged row group: {error}") from None
        path = self.paths[self.groups[group][0]]
        return _content(cell, None if scheme(path) else Path(path).parent)

    def name(self, index: int) -> str:
        group = bisect_right(self.chunks, index) - 1
        file = self.groups[group][0]
        first = next(g for g, (f, _) in enumerate(self.groups) if f == file)
        return f"{self.paths[file]}, row {index - self.chunks[first]}"

    def mark(self, index: int) -> object:
        return size_of(self.paths[self.groups[bisect_right(self.chunks, index) - 1][0]])


class ArrowSource(ImageSource):
    """Rows of a folder written by `save_to_disk` of Hugging Face `datasets`; memory-mapped.

    Args:
        folder: folder with state.json and data-*.arrow, or with such a folder for each split.
        split: name of the split.
        with_labels: whether to read the labels.
        columns: which columns hold images and labels.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: the folder does not exist, a file is damaged, or there is no column of images.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        with_labels: bool = False,
        columns: Columns = ANY,
    ):
        pyarrow = _pyarrow()
        self.folder = Path(folder).expanduser()
        if not (self.folder / STATE).exists() and (self.folder / split).is_dir():
            self.folder = self.folder / split
        if not (self.folder / STATE).exists():
            raise ValueError(
                f"{self.folder} was not written by save_to_disk: no state.json is in it."
            )
        files = _arrow_files(self.folder / STATE)
        tables = [
            _opened(file, lambda f: pyarrow.ipc.open_stream(pyarrow.memory_map(f)).read_all())
            for file in files
        ]
        table = _opened(str(self.folder), lambda _: pyarrow.concat_tables(tables))
        image = _image_column(table.schema, str(self.folder), columns.image)
        self.images = table[image]
        info, features = self.folder / "dataset_info.json", {}
        if info.is_file():
            features = features_of(
                json_object(info.read_bytes(), str(info)).get("features"), str(info)
            )
        column = label_column(columns, table.column_names, image, features, str(self.folder))
        labels, values, names = None, np.empty(0), class_names(features, column, str(info))
        if with_labels and column is not None:
            values = _values(table[column])
            labels, names = labels_of(
                values, columns, lambda i: f"{self.name(i)}, column {column}", names
            )
        super().__init__(labels, names)
        if with_labels:
            self.notes += note_on_labels(columns, column, table.column_names, str(self.folder))
            self.notes += separator_note(values, columns, str(self.folder))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        try:
            cell = self.images[int(index)].as_py()
        except (OSError, ValueError, _pyarrow().ArrowException) as error:
            raise ImageError(f"damaged row: {error}") from None
        return _content(cell, self.folder)

    def name(self, index: int) -> str:
        return f"{self.folder}, row {index}"


def _arrow_files(state_file: Path) -> list[str]:
    """Files that the state.json of `save_to_disk` lists, which are beside it.

    Raises:
        ValueError: it is damaged, or belongs to a selection from another data set.
    """
    state = json_object(state_file.read_bytes(), str(state_file))
    if state.get("_indices_files"):
        raise ValueError(
            f"{state_file.parent} is a selection from another data set; save it after flatten_indices()."
        )
    files = state.get("_data_files")
    files = files if isinstance(files, list) else []
    names = [str(f.get("filename", "")) if isinstance(f, dict) else "" for f in files]
    if not names or any(not name or Path(name).name != name for name in names):
        raise ValueError(f"{state_file} is damaged: it does not name the files beside it.")
    return [str(state_file.with_name(name)) for name in names]
