"""Hugging Face data sets on disk: parquet files, and the Arrow folders of `save_to_disk`."""

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

import numpy as np

from nepa_keras.data.decode import ImageError, read_file
from nepa_keras.data.order import WINDOW
from nepa_keras.data.sources.base import ImageSource, size_of
from nepa_keras.packages import required_for

_LABELS = ("label", "labels")


def _pyarrow():
    with required_for("Reading parquet and Arrow files", "pyarrow"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def _image_column(schema, path: str) -> str:
    """The column of images: a struct with `bytes`, or binary; by preference named "image".

    Raises:
        ValueError: there is none.
    """
    arrow = _pyarrow().types

    def holds_images(kind):
        if arrow.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return arrow.is_binary(kind) or arrow.is_large_binary(kind)

    columns = [field.name for field in schema if holds_images(field.type)]
    if not columns:
        raise ValueError(
            f"{path} has no column of images (a struct with bytes, or binary), but {schema.names}."
        )
    return "image" if "image" in columns else columns[0]


def _opened(path: str, opener):
    """`opener(path)`.

    Raises:
        ValueError: the file is damaged or of another format.
    """
    try:
        return opener(path)
    except (OSError, _pyarrow().ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _class_names(features: dict | None, column: str | None):
    names = ((features or {}).get(column) or {}).get("names")
    return None if names is None else list(names)


def _content(value, folder: Path) -> bytes:
    """The encoded image of a cell; one that only has a path is read from beside the table."""
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return read_file(folder / value["path"])
        value = value.get("bytes")
    if value is None:
        raise ImageError("the cell is empty")
    return value


class ParquetSource(ImageSource):
    """Rows of parquet files.

    A row group is read as a whole, so those of the last windows of `epoch_order` are kept in memory, and
    `chunks` tells it where the groups end.

    Args:
        paths: the files.
        with_labels: read the label column.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: a damaged file, no column of images, or no rows.
    """

    def __init__(self, paths: list[str], with_labels: bool = False):
        parquet = _pyarrow().parquet
        self.paths = paths
        files = [_opened(path, parquet.ParquetFile) for path in paths]
        self.image = _image_column(files[0].schema_arrow, paths[0])
        self.groups = [(i, g) for i, f in enumerate(files) for g in range(f.num_row_groups)]
        sizes = [files[i].metadata.row_group(g).num_rows for i, g in self.groups]
        self.chunks = np.array([0, *accumulate(sizes)])
        if not self.chunks[-1]:
            raise ValueError(f"{paths[0]} holds no row.")
        self.kept: OrderedDict = OrderedDict()  # groups, the one used last at the end
        self.lock = threading.Lock()
        self.most_rows = 2 * (WINDOW + max(sizes))
        column = next((c for c in _LABELS if c in files[0].schema_arrow.names), None)
        labels = None
        if with_labels and column is not None:
            labels = np.concatenate([f.read([column])[column].to_numpy() for f in files])
        described = json.loads((files[0].schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        features = described.get("info", {}).get("features")
        super().__init__(labels, _class_names(features, column))

    def __len__(self) -> int:
        return int(self.chunks[-1])

    def _group(self, group: int):
        with self.lock:
            if group not in self.kept:
                file, row_group = self.groups[group]
                opened = _pyarrow().parquet.ParquetFile(self.paths[file])
                self.kept[group] = opened.read_row_group(row_group, [self.image])[self.image]
                while len(self.kept) > 1 and sum(map(len, self.kept.values())) > self.most_rows:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(group)
            return self.kept[group]

    def read(self, index: int) -> bytes:
        group = bisect_right(self.chunks, index) - 1
        try:
            cell = self._group(group)[int(index - self.chunks[group])].as_py()
        except (OSError, _pyarrow().ArrowException) as error:
            raise ImageError(f"damaged row group: {error}") from None
        return _content(cell, Path(self.paths[self.groups[group][0]]).parent)

    def name(self, index: int) -> str:
        group = bisect_right(self.chunks, index) - 1
        file = self.groups[group][0]
        first = next(g for g, (f, _) in enumerate(self.groups) if f == file)
        return f"{self.paths[file]}, row {index - self.chunks[first]}"

    def mark(self, index: int) -> object:
        return size_of(self.paths[self.groups[bisect_right(self.chunks, index) - 1][0]])


class ArrowSource(ImageSource):
    """A folder written by `save_to_disk` of Hugging Face `datasets`; memory-mapped.

    Args:
        folder: holds state.json and data-*.arrow, or a folder for each split.
        split: which of them.
        with_labels: read the label column.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: no such folder, a damaged file, or no column of images.
    """

    def __init__(self, folder: str | Path, split: str = "train", with_labels: bool = False):
        pyarrow = _pyarrow()
        self.folder = Path(folder).expanduser()
        if not (self.folder / "state.json").exists() and (self.folder / split).is_dir():
            self.folder = self.folder / split
        if not (self.folder / "state.json").exists():
            raise ValueError(f"{self.folder} is no folder of save_to_disk; it has no state.json.")
        state = json.loads((self.folder / "state.json").read_text())
        if state.get("_indices_files"):
            raise ValueError(
                f"{self.folder} is a selection of another data set; save it after flatten_indices()."
            )
        files = [str(self.folder / file["filename"]) for file in state["_data_files"]]
        tables = [
            _opened(file, lambda f: pyarrow.ipc.open_stream(pyarrow.memory_map(f)).read_all())
            for file in files
        ]
        table = pyarrow.concat_tables(tables)
        self.images = table[_image_column(table.schema, str(self.folder))]
        column = next((c for c in _LABELS if c in table.column_names), None)
        labels = table[column].to_numpy() if with_labels and column is not None else None
        info = self.folder / "dataset_info.json"
        features = json.loads(info.read_text()).get("features") if info.exists() else None
        super().__init__(labels, _class_names(features, column))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        return _content(self.images[int(index)].as_py(), self.folder)

    def name(self, index: int) -> str:
        return f"{self.folder}, row {index}"
