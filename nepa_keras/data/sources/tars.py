"""Tars of webdataset, whose headers are passed over once when a file is opened."""

import json
import tarfile

from nepa_keras.data.sources.base import ImageSource
from nepa_keras.data.sources.files import SUFFIXES
from nepa_keras.data.sources.ranges import FileRanges, read_range


class TarSource(ImageSource):
    """Images of webdataset tars; the label of `KEY.jpg` is in `KEY.cls`, or in `KEY.json` as "label".

    Args:
        paths: uncompressed tar files.
        with_labels: read the labels, which passes over all files.

    Raises:
        ValueError: a file is no tar, is compressed, or holds no image; a label is no number.
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
        known = [label for label in labels if label is not None]
        super().__init__(known if known and len(known) == len(labels) else None)

    def __len__(self) -> int:
        return len(self.ranges)

    def read(self, index: int) -> bytes:
        return self.ranges.read(index)

    def mark(self, index: int) -> int:
        return self.ranges.length(index)

    def name(self, index: int) -> str:
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
            text = read_range(path, *place)
            try:
                label = int(text) if suffix == ".cls" else json.loads(text).get("label")
                return None if label is None else int(label)
            except (ValueError, AttributeError, TypeError):
                raise ValueError(f"{path}, {key}{suffix} holds no class number.") from None
    return None
