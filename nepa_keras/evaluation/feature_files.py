"""Files of features: `.npz` for NumPy, `.parquet` for tables; written in pieces, so that memory stays small.

N images, D width. The arrays of an .npz, and the columns of a .parquet:

names      what a person finds the image by: its path, or file and record; `name` in parquet
indices    (N,) its number in the source; `index`
labels     (N,) class numbers, -1 for none; `label`, null for none. Only of labelled sources
features   (N, D) float32, or (N, ...) of patches, which parquet holds flat; the record has the shape
record     JSON: what the features are of; metadata of the parquet schema under "nepa_keras"
"""

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nepa_keras.packages import required_for

_KEY = b"nepa_keras"  # of the record in a parquet file's schema


class Features(NamedTuple):
    """The content of a file of features.

    Attributes:
        names: (N,) text, see this module.
        indices: (N,) numbers of the images in their source.
        labels: (N,) class numbers, -1 for none; None of a source without labels.
        features: (N, D) or (N, ...) float32.
        record: what they are of: model, images, block, pool, attention, class_names and so on.
    """

    names: np.ndarray
    indices: np.ndarray
    labels: np.ndarray | None
    features: np.ndarray
    record: dict[str, Any]


def check_format(path: str | Path) -> None:
    """Check before the work that features can be written to a file of that name.

    Raises:
        ValueError: another ending than .npz and .parquet.
        ImportError: pyarrow is missing, which .parquet needs.
    """
    suffix = Path(path).suffix
    if suffix not in (".npz", ".parquet"):
        raise ValueError(f"Features are written as .npz or .parquet, not as {path}.")
    if suffix == ".parquet":
        _parquet()


def _parquet():
    with required_for("A .parquet file", "pyarrow"):
        import pyarrow.parquet
    return pyarrow.parquet


def write_features(
    path: str | Path,
    names: list[str],
    indices: np.ndarray,
    labels: np.ndarray | None,
    features: Iterable[np.ndarray],
    record: Mapping[str, Any],
) -> None:
    """Write a file of features.

    Args:
        path: ends in .npz or .parquet.
        names, indices, labels: see `Features`.
        features: pieces of rows, in order.
        record: JSON, with the shape of a row under "shape".
    """
    columns = {"names": np.array(names), "indices": indices.astype("int64")}
    if labels is not None:
        columns["labels"] = labels.astype("int64")
    check_format(path)
    write = _write_npz if Path(path).suffix == ".npz" else _write_parquet
    write(path, columns, features, record)


def _write_npz(path, columns, features, record):
    # As `np.savez`, but features come piece by piece.
    with zipfile.ZipFile(path, "w") as archive:
        for name, column in {"record": np.array(json.dumps(record)), **columns}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, column, allow_pickle=False)
        shape = (len(columns["indices"]), *record["shape"])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with archive.open("features.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_2_0(member, header)
            for piece in features:
                member.write(piece.astype("<f4").tobytes())


def _write_parquet(path, columns, features, record):
    pq = _parquet()
    import pyarrow as pa

    size = int(np.prod(record["shape"]))
    fields = [
        ("name", pa.string()),
        ("index", pa.int64()),
        ("features", pa.list_(pa.float32(), size)),
    ]
    if "labels" in columns:
        fields.insert(2, ("label", pa.int64()))
    schema = pa.schema(fields, {_KEY: json.dumps(record)})
    start = 0
    with pq.ParquetWriter(path, schema, use_dictionary=False) as file:
        for piece in features:
            part = {name: column[start : start + len(piece)] for name, column in columns.items()}
            start += len(piece)
            arrays = [pa.array(part["names"].tolist(), pa.string()), pa.array(part["indices"])]
            if "labels" in part:
                arrays.append(pa.array(part["labels"], mask=part["labels"] < 0))
            values = pa.array(piece.astype("float32").ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(values, size))
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def read_record(path: str | Path) -> dict[str, Any]:
    """What the features in a file are of, without reading them.

    Raises:
        ValueError: it is damaged, or no file of features.
        OSError: it cannot be read.
    """
    return _read(path, only_record=True)


def read_features(path: str | Path) -> Features:
    """Read a file that `embed_source` wrote.

    Args:
        path: ends in .npz or .parquet.

    Raises:
        ValueError: it is damaged, or no file of features.
        ImportError: pyarrow is missing, which .parquet needs.
        OSError: it cannot be read.

    Example:
        >>> found = read_features("features.parquet")
        >>> found.features[found.names == "cats/1.jpg"]
    """
    return _read(path)


def _read(path, only_record=False) -> Any:
    path = Path(path).expanduser()
    check_format(path)
    with open(path, "rb"):  # missing or not to be read: the system's own words
        pass
    read = _read_npz if path.suffix == ".npz" else _read_parquet
    try:
        return read(path, only_record)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged or no file of features, as embed.py writes them ({error})."
        ) from None


def _read_npz(path, only_record):
    with np.load(path) as file:
        record = json.loads(str(file["record"]))
        if only_record:
            return record
        labels = file.get("labels")
        return Features(file["names"], file["indices"], labels, file["features"], record)


def _read_parquet(path, only_record):
    pq = _parquet()
    record = json.loads((pq.read_schema(path).metadata or {})[_KEY])
    if only_record:
        return record
    table = pq.read_table(path)
    labels = None
    if "label" in table.column_names:
        labels = table["label"].fill_null(-1).to_numpy()
    flat = table["features"].combine_chunks().flatten().to_numpy()
    features = flat.reshape(len(table), *record["shape"])
    names = np.array(table["name"].to_pylist())
    return Features(names, table["index"].to_numpy(), labels, features, record)
