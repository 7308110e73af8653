"""Tars of webdataset, whose headers are passed over once when a file is opened."""

import tarfile
from typing import Any

import numpy as np

from nepa_keras.data.decode import ImageError
from nepa_keras.data.labels import NAMES, UNLABELLED, class_numbers
from nepa_keras.data.sources.base import ImageSource
from nepa_keras.data.sources.json_text import json_object
from nepa_keras.data.sources.ranges import FileRanges, read_range
from nepa_keras.data.sources.walk import Others, ending, image_endings, passed_over

_MISSING = object()  # in place of the label of an image that has none
_LABEL_ENDINGS = (".cls", ".json")


class TarSource(ImageSource):
    """Images of webdataset tars; the label of `KEY.jpg` is in `KEY.cls`, or in `KEY.json` as "label".

    Args:
        paths: uncompressed tar files.
        with_labels: read the labels, which passes over all files.

    Raises:
        ValueError: a file is no tar, is compressed, or holds no image; see `class_numbers`.
    """

    def __init__(self, paths: list[str], with_labels: bool = False):
        ranges, self.names, found, places = [], [], [], []
        others = Others()
        for path in paths:
            images, texts = _tar_members(path, others)
            ranges.append([place for _, place in images])
            self.names += [f"{path}, {name}" for name, _ in images]
            if with_labels:
                for name, _ in images:
                    place, label = _tar_label(path, texts, name)
                    places.append(place)
                    found.append(label)
        self.ranges = FileRanges(paths, ranges)
        over = (passed_over(others),) if others else ()
        if not len(self.ranges):
            raise ValueError(
                f"{paths[0]} holds no file ending in {', '.join(sorted(image_endings()))}. {' '.join(over)}"
            )
        super().__init__(*_labels_of_found(found, places))
        self.notes += over

    def __len__(self) -> int:
        return len(self.ranges)

    def read(self, index: int) -> bytes:
        return self.ranges.read(index)

    def mark(self, index: int) -> int:
        return self.ranges.length(index)

    def name(self, index: int) -> str:
        return self.names[index]


def _labels_of_found(found: list, places: list[str]):
    """Class numbers and names of classes; an image without a file of its label has none."""
    held = [i for i, label in enumerate(found) if label is not _MISSING]
    if not held:
        return None, None
    numbers = np.full(len(found), UNLABELLED)
    numbers[held], names = class_numbers([found[i] for i in held], lambda i: places[held[i]])
    return numbers, names


def _tar_members(path: str, others: Others):
    """[(name, (offset, length))] of the images of a tar, and {name: (offset, length)} of its labels.

    Other files are counted in `others`.
    """
    images, texts, endings = [], {}, image_endings()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.rpartition("/")[2].startswith("."):
                    continue  # hidden, such as what macOS adds to each file
                place, kind = (member.offset_data, member.size), ending(member.name)
                if member.isfile() and kind in endings:
                    images.append((member.name, place))
                elif member.isfile() and kind in _LABEL_ENDINGS:
                    texts[member.name] = place
                elif member.isfile():
                    others.add(member.name)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole, uncompressed tar: {error}.") from None
    return images, texts


def _tar_label(path: str, texts: dict, image: str) -> tuple[str, Any]:
    """Where the label of an image is, and the label."""
    folder, _, name = image.rpartition("/")
    key = f"{folder}/{name.split('.')[0]}" if folder else name.split(".")[0]
    for suffix in _LABEL_ENDINGS:
        if place := texts.get(key + suffix):
            where = f"{path}, {key}{suffix}"
            try:
                content = read_range(path, *place)
            except ImageError as error:
                raise ValueError(f"{where}: {error}.") from None
            return where, _text_label(content) if suffix == ".cls" else _json_label(content, where)
    return "", _MISSING


def _json_label(content: bytes, where: str) -> Any:
    held = json_object(content, where)
    return next((held[name] for name in NAMES if name in held), _MISSING)


def _text_label(content: bytes) -> int | float | str:
    text = content.decode("utf-8", "backslashreplace").strip()
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
