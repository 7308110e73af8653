"""Images inside large files, found by offset: TFRecord files and webdataset tars.

A record of a TFRecord file is a length (8 bytes), its checksum (4), the data, and a checksum (4), so the
lengths alone tell where each begins; a tar has a header before each member. Both are passed over once
when they are opened, reading headers only; then any image can be read without those before it.
"""

import functools
import json
import os
import struct
import tarfile
from bisect import bisect_right
from itertools import accumulate

from nepa_keras.data.decode import ImageError
from nepa_keras.data.sources.base import ImageSource
from nepa_keras.data.sources.files import SUFFIXES

_IMAGE_KEYS = ("image/encoded", "image", "image_raw")
_LABEL_KEYS = ("image/class/label", "label")


class FileRanges:
    """Pieces of files, numbered through, read by any thread.

    Args:
        paths: the files.
        ranges: for each file the (offset, length) of its pieces.
    """

    def __init__(self, paths: list[str], ranges: list[list[tuple[int, int]]]):
        self.paths = paths
        self.ranges = ranges
        self.ends = list(accumulate(len(r) for r in ranges))

    def __len__(self):
        return self.ends[-1] if self.ends else 0

    def place(self, index: int) -> tuple[int, int]:
        """(file, piece in it)."""
        file = bisect_right(self.ends, index)
        return file, index - (self.ends[file - 1] if file else 0)

    def read(self, index: int) -> bytes:
        file, piece = self.place(index)
        offset, length = self.ranges[file][piece]
        try:
            descriptor = _descriptor(self.paths[file])
            data = os.pread(descriptor, length, offset)
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from None
        if len(data) != length:
            raise ImageError("the file ends before it")
        return data


@functools.cache
def _descriptor(path: str) -> int:
    """An open file that is only read by position, so that threads can share it; closed at the end."""
    return os.open(path, os.O_RDONLY)


def record_ranges(path: str) -> list[tuple[int, int]]:
    """(offset, length) of each record of a TFRecord file.

    Raises:
        ValueError: the file is cut off or no TFRecord file.
    """
    ranges, size, offset = [], os.path.getsize(path), 0
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            if offset + 16 + length > size:
                raise ValueError(
                    f"{path} is cut off or no TFRecord file: the record at byte {offset} would end "
                    f"behind the file's {size} bytes."
                )
            ranges.append((offset + 12, length))
            offset += 16 + length
    return ranges


class RecordSource(ImageSource):
    """Examples of TFRecord files, by the `image/encoded` schema or that of TensorFlow Datasets.

    Args:
        paths: the files.
        class_names: a name for each class.
        with_labels: read the labels, which passes over all files.

    Raises:
        ValueError: a file is cut off, or holds no images.
    """

    def __init__(self, paths: list[str], class_names=None, with_labels: bool = False):
        self.ranges = FileRanges(paths, [record_ranges(path) for path in paths])
        if not len(self.ranges):
            raise ValueError(f"{paths[0]} holds no record.")
        first = self._features(0)
        self.image_key = next((key for key in _IMAGE_KEYS if key in first), None)
        if self.image_key is None:
            raise ValueError(
                f"{paths[0]} has none of the features {', '.join(_IMAGE_KEYS)}, but "
                f"{', '.join(sorted(first))}."
            )
        key = next((key for key in _LABEL_KEYS if key in first), None)
        labels = None
        if with_labels and key is not None:
            labels = [self._label(i, key) for i in range(len(self.ranges))]
        super().__init__(labels, class_names)

    def _features(self, index: int):
        try:
            return _example().FromString(self.ranges.read(index)).features.feature
        except ImageError:
            raise
        except Exception as error:  # protobuf's DecodeError, which only it can name
            raise ImageError(f"damaged record: {error}") from None

    def _label(self, index: int, key: str) -> int:
        values = self._features(index)[key].int64_list.value
        if len(values) != 1:
            raise ValueError(f"{self.name(index)}: {key} holds {len(values)} integers, not 1.")
        return values[0]

    def __len__(self):
        return len(self.ranges)

    def read(self, index):
        values = self._features(index)[self.image_key].bytes_list.value
        if len(values) != 1:
            raise ImageError(f"feature {self.image_key} holds {len(values)} values, not 1")
        return values[0]

    def name(self, index):
        file, piece = self.ranges.place(index)
        return f"{self.ranges.paths[file]}, record {piece}"


@functools.cache
def _example():
    """The message class of `tf.train.Example`, described here so that TensorFlow is not needed."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise ImportError("Reading TFRecord files needs protobuf; pip install protobuf.") from None

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


class TarSource(ImageSource):
    """Images of webdataset tars; the label of `KEY.jpg` is in `KEY.cls`, or in `KEY.json` as "label".

    Args:
        paths: uncompressed tar files.
        with_labels: read the labels, which passes over all files.

    Raises:
        ValueError: a file is no tar, is compressed, or holds no image.
    """

    def __init__(self, paths: list[str], with_labels: bool = False):
        ranges, self.names, labels = [], [], []
        for path in paths:
            images, texts = _tar_members(path)
            ranges.append([place for _, place in images])
            self.names += [f"{path}, {name}" for name, _ in images]
            if with_labels:
                labels += [_tar_label(path, texts, name) for name, _ in images]
        self.ranges = FileRanges(paths, ranges)
        if not len(self.ranges):
            raise ValueError(f"{paths[0]} holds no file ending in {', '.join(SUFFIXES)}.")
        super().__init__(None if None in labels or not labels else labels)

    def __len__(self):
        return len(self.ranges)

    def read(self, index):
        return self.ranges.read(index)

    def name(self, index):
        return self.names[index]


def _tar_members(path: str):
    """[(name, (offset, length))] of the images of a tar, and {name: (offset, length)} of its labels."""
    images, texts = [], {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                place = (member.offset_data, member.size)
                if member.isfile() and member.name.lower().endswith(SUFFIXES):
                    images.append((member.name, place))
                elif member.isfile() and member.name.endswith((".cls", ".json")):
                    texts[member.name] = place
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole, uncompressed tar: {error}.") from None
    return images, texts


def _tar_label(path: str, texts: dict, image: str) -> int | None:
    folder, _, name = image.rpartition("/")
    key = f"{folder}/{name.split('.')[0]}" if folder else name.split(".")[0]
    for suffix in (".cls", ".json"):
        if place := texts.get(key + suffix):
            text = os.pread(_descriptor(path), place[1], place[0])
            return int(text) if suffix == ".cls" else json.loads(text).get("label")
    return None
