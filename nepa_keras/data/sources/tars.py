"""Webdataset tar files; their headers are scanned once when a file is opened."""

import functools
import tarfile
import zlib
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
from nepa_keras.data.sources.json_text import json_object
from nepa_keras.data.sources.places import of_each_file, open_to_read
from nepa_keras.data.sources.ranges import FileRanges, read_range
from nepa_keras.data.sources.walk import Others, ending, image_endings, passed_over

_MISSING = object()  # label of an image that has none
_LABEL_ENDINGS = (".cls", ".json")


class TarSource(ImageSource):
    """Images in webdataset tar files; the label of `KEY.jpg` is in `KEY.cls`, or in `KEY.json` as "label".

    Several labels per image are a list in JSON, or a text with separators; an empty list or text means that
    the image shows none of the classes.

    Args:
        paths: uncompressed tar files.
        with_labels: whether to read the labels, for which all files are scanned.
        columns: whether an image may have several labels, and their separator in a text.

    Raises:
        ValueError: a file is not a tar file, is compressed, or holds no image; or see `class_numbers`.
    """

    def __init__(self, paths: list[str], with_labels: bool = False, columns: Columns = ANY):
        self.names, found, places = [], [], []
        others = Others()
        name = f"tar-{with_labels}-{zlib.crc32(repr(sorted(image_endings())).encode())}"
        tars = of_each_file(functools.partial(_tar_index, with_labels=with_labels), paths, name)
        for path, tar in zip(paths, tars, strict=True):
            self.names += [f"{path}, {name}" for name, _ in tar["images"]]
            others.add_all(*tar["others"])
            places += [held[0] if held else "" for held in tar["labels"]]
            found += [held[1] if held else _MISSING for held in tar["labels"]]
        self.ranges = FileRanges(paths, [[place for _, place in tar["images"]] for tar in tars])
        over = (passed_over(others),) if others else ()
        if not len(self.ranges):
            raise ValueError(
                f"{paths[0]} holds no file ending in {', '.join(sorted(image_endings()))}. {' '.join(over)}"
            )
        if columns.multi_label and with_labels:
            self._check_labelled(found)
            super().__init__(*_matrix_of_found(found, places, columns))
        else:
            super().__init__(*_labels_of_found(found, places))
        self.notes += (*separator_note(found, columns, paths[0]), *over)

    def _check_labelled(self, found: list) -> None:
        """Check that each image has labels; one that shows none of the classes has an empty list."""
        if _MISSING in found:
            raise ValueError(
                f"{self.names[found.index(_MISSING)]} has no labels, {' or '.join(_LABEL_ENDINGS)}; write an "
                "empty list for an image that shows none of the classes."
            )

    def __len__(self) -> int:
        return len(self.ranges)

    def read(self, index: int) -> bytes:
        return self.ranges.read(index)

    def mark(self, index: int) -> object:
        return self.ranges.mark(index)

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


def _matrix_of_found(found: list, places: list[str], columns: Columns):
    """Rows of zeros and ones, and names of classes."""
    sets = [
        [_number_or_text(part) if isinstance(part, str) else part for part in parts]
        for parts in (several_parts(label, columns.separator) for label in found)
    ]
    return labels_of(sets, columns, lambda i: places[i])


def _tar_index(path: str, with_labels: bool) -> dict[str, Any]:
    """Content of a tar file.

    Returns:
        "images": [[name, [offset, length]]]; "labels": if wanted, for each image [where, label], or [] if it
        has none; "others": for each other ending (number of files, example).
    """
    images, texts, endings = [], {}, image_endings()
    others = Others()
    try:
        with open_to_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.name.rpartition("/")[2].startswith("."):
                    continue  # hidden, such as the ._ files that macOS adds
                place, kind = (member.offset_data, member.size), ending(member.name)
                if member.isfile() and kind in endings:
                    images.append((member.name, place))
                elif member.isfile() and kind in _LABEL_ENDINGS:
                    texts[member.name] = place
                elif member.isfile():
                    others.add(member.name)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a complete, uncompressed tar file: {error}.") from None
    labels = [_tar_label(path, texts, name) for name, _ in images] if with_labels else []
    return {"images": images, "labels": labels, "others": [others.counts, others.examples]}


def _tar_label(path: str, texts: dict, image: str) -> list:
    """Location of the label of an image, and the label; empty if it has none."""
    folder, _, name = image.rpartition("/")
    key = f"{folder}/{name.split('.')[0]}" if folder else name.split(".")[0]
    for suffix in _LABEL_ENDINGS:
        if place := texts.get(key + suffix):
            where = f"{path}, {key}{suffix}"
            try:
                content = read_range(path, *place)
            except ImageError as error:
                raise ValueError(f"{where}: {error}.") from None
            if suffix == ".cls":
                return [where, _text_label(content)]
            held = json_object(content, where)
            return next(([where, held[name]] for name in NAMES if name in held), [])
    return []


def _text_label(content: bytes) -> int | float | str:
    return _number_or_text(content.decode("utf-8", "backslashreplace").strip())


def _number_or_text(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
