"""Files of features: `.npz` for NumPy, `.parquet` for tables.

Features are written in pieces, so that memory use does not grow with the number of images B.

    array in .npz  column in .parquet  content
    names          name                human-readable location of an image: its path, or file and record
    indices        index               (B,) number of the image in its source
    labels         label               (B,) class number; -1 (.npz) or null (.parquet) for none.
                                       Only if the source has labels
    features       features            (B, D) or (B, ...) float32; flattened in .parquet, where the
                                       record holds the shape
    record         schema metadata     JSON: how the features were made; under "nepa_keras" in .parquet
"""

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nepa_keras.packages import required_for

_KEY = b"nepa_keras"  # key of the record in the schema metadata of a parquet file


class Features(NamedTuple):
    """Content of a file of features.

    Attributes:
        names: (B,) human-readable locations of the images.
        indices: (B,) numbers of the images in their source.
        labels: (B,) class numbers, -1 for none; None if the source has no labels.
        features: (B, D) or (B, ...) float32.
        record: how the features were made: model, images, block, pool, attention, class_names and so on.

    Example:
        >>> batches = data.OrderedBatches(data.open_source("folder:pictures"), 8, (28, 28), channels=1)
        >>> extractor = evaluation.FeatureExtractor(backbone)
        >>> record = evaluation.embed_source(extractor, batches, "features.npz")
        >>> found = evaluation.read_features("features.npz")
        >>> found.features.shape, found.record["pool"]
        ((8, 32), 'mean')
    """

    names: np.ndarray
    indices: np.ndarray
    labels: np.ndarray | None
    features: np.ndarray
    record: dict[str, Any]


def check_format(path: str | Path) -> None:
    """Check, before features are computed, that they can be written to a file of this name.

    Raises:
        ValueError: the ending is neither .npz nor .parquet.
        ImportError: the ending is .parquet and pyarrow is missing.
    """
    suffix = Path(path).suffix
    if suffix not in (".npz", ".parquet"):
        raise ValueError(
            f"Features are written as .npz or .parquet, not as {path}; give the file one of these endings."
        )
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
        path: file to write; ends in .npz or .parquet.
        names, indices, labels: see `Features`.
        features: arrays (rows, ...) that follow one another, each with the features of some images.
        record: JSON, with the shape of the features of one image under "shape".
    """
    columns = {"names": np.array(names), "indices": indices.astype("int64")}
    if labels is not None:
        columns["labels"] = labels.astype("int64")
    check_format(path)
    write = _write_npz if Path(path).suffix == ".npz" else _write_parquet
    write(path, columns, features, record)


def _write_npz(path, columns, features, record):
    # Same format as `np.savez`, but the features are written piece by piece.
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
    """Record of a file of features: how they were made, without reading them.

    Raises:
        ValueError: the file is damaged or holds no features.
        OSError: the file cannot be read.
    """
    return _read(path, only_record=True)


def read_features(path: str | Path) -> Features:
    """Read a file that `embed_source` wrote.

    Args:
        path: file that ends in .npz or .parquet.

    Raises:
        ValueError: the file is damaged or holds no features.
        ImportError: the file is .parquet and pyarrow is missing.
        OSError: the file cannot be read.

    Example:
        >>> batches = data.OrderedBatches(data.open_source("folder:pictures"), 8, (28, 28), channels=1)
        >>> extractor = evaluation.FeatureExtractor(backbone)
        >>> record = evaluation.embed_source(extractor, batches, "features.npz")
        >>> found = evaluation.read_features("features.npz")
        >>> found.features[found.names == "pictures/cats/0.png"].shape
        (1, 32)
    """
    return _read(path)


def _read(path, only_record=False) -> Any:
    path = Path(path).expanduser()
    check_format(path)
    with open(path, "rb"):  # a missing or unreadable file raises the operating system's own OSError
        pass
    read = _read_npz if path.suffix == ".npz" else _read_parquet
    try:
        return read(path, only_record)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged or is not a file of features written by embed.py ({error})."
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
