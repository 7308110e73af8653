"""TFRecord files.

A record is a length (8 bytes), its checksum (4), the data, and a checksum (4), so the lengths alone show
where each record starts. They are scanned once when a file is opened.
"""

import functools
import struct
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain, pairwise
from typing import Any

import numpy as np

from nepa_keras.data.decode import ImageError
from nepa_keras.data.labels import NAMES, UNLABELLED, class_numbers
from nepa_keras.data.sources.base import ImageSource
from nepa_keras.data.sources.columns import (
    ANY,
    Columns,
    labels_of,
    separator_note,
    several_parts,
)
from nepa_keras.data.sources.json_text import names_of_classes, parse_json
from nepa_keras.data.sources.places import beside, file_size, of_each_file, open_to_read
from nepa_keras.data.sources.ranges import FileRanges
from nepa_keras.packages import required_for

MANIFEST = "manifest.json"  # written by `data.copy_to_records` beside TFRecord files
_DAMAGED = object()  # label of a record that cannot be read
_IMAGE_KEYS = ("image/encoded", "image", "image_raw")
_LABEL_KEYS = ("image/class/label", *NAMES)


def masked_crc(data: bytes) -> bytes:
    """Four-byte checksum that follows each part of a record in a TFRecord file.

    Raises:
        ImportError: google-crc32c is missing.
    """
    with required_for("Writing TFRecord files", "google-crc32c"):
        import google_crc32c
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record_ranges(path: str) -> list[tuple[int, int]]:
    """Offset and length of each record of a TFRecord file, including the checksum after it.

    Raises:
        ValueError: the file is truncated or not a TFRecord file.
    """
    ranges, size, offset = [], file_size(path), 0
    with open_to_read(path) as file:
        while offset < size:
            file.seek(offset)
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            if offset + 16 + length > size:
                raise ValueError(
                    f"{path} is truncated or not a TFRecord file: the record at byte {offset} would end "
                    f"after the file's {size} bytes."
                )
            ranges.append((offset + 12, length + 4))
            offset += 16 + length
    return ranges


class RecordSource(ImageSource):
    """Examples in TFRecord files, in the `image/encoded` schema or that of TensorFlow Datasets.

    Args:
        paths: the files; a manifest beside them gives the names of classes.
        class_names: name of each class.
        with_labels: whether to read the labels, for which all files are scanned; the label of a damaged
            record is -1, or with several labels per image none of the classes.
        columns: whether an image may have several labels, and their separator in a text.

    Raises:
        ValueError: a file is truncated, holds no images, or does not match the manifest.
    """

    def __init__(
        self,
        paths: list[str],
        class_names: Sequence[str] | None = None,
        with_labels: bool = False,
        columns: Columns = ANY,
    ):
        class_names = class_names or _class_names_of_manifest(paths)
        self.ranges = FileRanges(paths, of_each_file(record_ranges, paths, "records"))
        if not len(self.ranges):
            raise ValueError(f"{paths[0]} holds no record.")
        first = self._first_features()
        self.image_key = next((key for key in _IMAGE_KEYS if key in first), None)
        if self.image_key is None:
            raise ValueError(
                f"{paths[0]} has none of the features {', '.join(_IMAGE_KEYS)}, but "
                f"{', '.join(sorted(first))}."
            )
        key = next((key for key in _LABEL_KEYS if key in first), None)
        labels, texts = None, []
        if with_labels and key is not None:
            labels, class_names, texts = self._labels(key, class_names, columns)
        super().__init__(labels, class_names)
        self.notes += separator_note(texts, columns, paths[0])
        if with_labels and key is None:
            self.notes += (
                f"{paths[0]} has none of the features of labels {', '.join(_LABEL_KEYS)}, but "
                f"{', '.join(sorted(first))}.",
            )

    def _first_features(self):
        """Features of the first intact record; damaged ones are reported when their image is read."""
        for index in range(min(len(self.ranges), 100)):
            try:
                return self._features(index)
            except ImageError as error:
                reason = error
        raise ValueError(f"The first records of {self.ranges.paths[0]} cannot be read: {reason}.")

    def _features(self, index: int):
        record = self.ranges.read(index)
        data, checksum = record[:-4], record[-4:]
        if find_spec("google_crc32c") and masked_crc(data) != checksum:
            raise ImageError("damaged record: its checksum does not match")
        try:
            return example_class().FromString(data).features.feature
        except Exception as error:  # protobuf's DecodeError, which cannot be imported reliably
            raise ImageError(f"damaged record: {error}") from None

    def _labels(self, key: str, class_names: Sequence[str] | None, columns: Columns):
        """Class numbers, or rows of zeros and ones; names of classes; and the labels as stored.

        A damaged record has no label; it is reported when `read` meets it.
        """
        numbers_of = dict(zip(self.ranges.paths, pairwise([0, *self.ranges.ends]), strict=True))

        def of_file(path: str) -> list:
            return [self._label(i, key, columns.multi_label) for i in range(*numbers_of[path])]

        kind = "sets" if columns.multi_label else "labels"
        found = of_each_file(of_file, self.ranges.paths, f"{kind}-{zlib.crc32(key.encode())}")
        if columns.multi_label:
            sets = [several_parts(held, columns.separator) for held in chain.from_iterable(found)]
            matrix = labels_of(sets, columns, lambda i: f"{self.name(i)}, {key}", class_names)
            return *matrix, list(chain.from_iterable(sets))
        labels: list[Any] = [held[0] if held else _DAMAGED for held in chain.from_iterable(found)]
        whole = [i for i, label in enumerate(labels) if label is not _DAMAGED]
        numbers = np.full(len(labels), UNLABELLED)
        numbers[whole], class_names = class_numbers(
            [labels[i] for i in whole], lambda i: f"{self.name(whole[i])}, {key}", class_names
        )
        return numbers, class_names, [labels[i] for i in whole]

    def _label(self, index: int, key: str, several: bool = False) -> list:
        """Labels of a record, one unless `several`; empty for a damaged record."""
        try:
            feature = self._features(index)[key]
        except ImageError:
            return []
        lists = (feature.int64_list, feature.float_list, feature.bytes_list)
        values: Sequence[Any] = next((held.value for held in lists if held.value), ())
        if len(values) != 1 and not several:
            raise ValueError(
                f"{self.name(index)}: {key} holds {len(values)} labels, not 1; several of one image "
                "(multi-label) are read with multi_label=True (--multi_label of finetune.py and evaluate.py)."
            )
        return [
            v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in values
        ]

    def __len__(self) -> int:
        return len(self.ranges)

    def read(self, index: int) -> bytes:
        values = self._features(index)[self.image_key].bytes_list.value
        if len(values) != 1:
            raise ImageError(f"feature {self.image_key} holds {len(values)} values, not 1")
        return values[0]

    def mark(self, index: int) -> object:
        return self.ranges.mark(index)

    def name(self, index: int) -> str:
        file, piece = self.ranges.place(index)
        return f"{self.ranges.paths[file]}, record {piece}"


def _class_names_of_manifest(paths: list[str]):
    """Names of classes from the `manifest.json` of `copy_to_records` beside the files; None without one.

    Raises:
        ValueError: it is damaged, or a file has another size than it says.
    """
    file = beside(paths[0], MANIFEST)
    if file is None:
        return None
    with open_to_read(file) as opened:
        manifest = parse_json(opened.read() or b"", file)
    if not isinstance(manifest, dict) or not {"shards", "class_names"} <= set(manifest):
        return None  # written by another program
    shards = manifest["shards"]
    if not isinstance(shards, list) or not all(
        isinstance(shard, dict) and {"file", "bytes"} <= set(shard) for shard in shards
    ):
        raise ValueError(f"{file} is damaged: it lists no shards; copy the data again.")
    sizes = {str(shard["file"]): shard["bytes"] for shard in shards}
    for path in paths:
        expected, found = sizes.get(path.rpartition("/")[2]), file_size(path)
        if expected != found:
            raise ValueError(
                f"{path} has {found} bytes, and {file} says {expected}; copy it again."
            )
    return names_of_classes(manifest["class_names"], file)


@functools.cache
def example_class():
    """Message class of `tf.train.Example`, defined here so that TensorFlow is not needed."""
    with required_for("Reading TFRecord files", "protobuf"):
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="nepa_keras/example.proto", package="nepa_keras", syntax="proto3"
    )

    def fill(message, **fields):
        for number, (key, (kind, label, type_name)) in enumerate(fields.items(), start=1):
            message.field.add(name=key, number=number, type=kind, label=label, type_name=type_name)

    one, many, nested = field.LABEL_OPTIONAL, field.LABEL_REPEATED, field.TYPE_MESSAGE
    kinds = {"Bytes": field.TYPE_BYTES, "Float": field.TYPE_FLOAT, "Int64": field.TYPE_INT64}
    for name, kind in kinds.items():
        fill(file.message_type.add(name=f"{name}List"), value=(kind, many, None))
    lists = {f"{n.lower()}_list": (nested, one, f".nepa_keras.{n}List") for n in kinds}
    fill(file.message_type.add(name="Feature"), **lists)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    fill(entry, key=(field.TYPE_STRING, one, None), value=(nested, one, ".nepa_keras.Feature"))
    fill(features, feature=(nested, many, ".nepa_keras.Features.FeatureEntry"))
    fill(file.message_type.add(name="Example"), features=(nested, one, ".nepa_keras.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nepa_keras.Example"))
