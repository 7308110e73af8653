"""Images in the files of a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from nepa_keras.data.decode import read_file
from nepa_keras.data.labels import UNLABELLED, in_order
from nepa_keras.data.sources.base import ImageSource, size_of
from nepa_keras.data.sources.walk import Found, find_images, listed

_SPLITS = frozenset("train training val valid validation test testing eval dev".split())


class FileSource(ImageSource):
    """Source with one file per image.

    Args:
        files: paths of the images.
        labels, class_names: see `ImageSource`.

    Raises:
        ValueError: labels are not as many as files, or see `class_numbers`.

    Example:
        >>> source = data.FileSource(data.image_files("pictures"))
        >>> len(source), source.name(0)
        (8, 'pictures/cats/0.png')
    """

    def __init__(
        self,
        files: list[str],
        labels: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(labels, class_names)
        self.files = files
        if self.labels is not None and len(self.labels) != len(files):
            raise ValueError(f"There are {len(self.labels)} labels for {len(files)} images.")

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        return read_file(self.files[index])

    def name(self, index: int) -> str:
        return self.files[index]

    def mark(self, index: int) -> object:
        return size_of(self.files[index])


def folder_source(
    path: str | Path, with_labels: bool = False, nested_classes: bool = False
) -> FileSource:
    """Open a folder of images; its subfolders, if there are at least two, are the classes.

    Images directly in the folder have no label. Subfolders that are all named like splits (train, val, …) are
    not classes.

    Args:
        path: the folder.
        with_labels: whether to note what is not labelled.
        nested_classes: whether each folder that holds images, at any depth, is a class, named by its path
            such as animals/cats; by default each folder directly below is a class.

    Raises:
        ValueError: see `find_images`.
    """
    found = find_images(path)
    places = [Path(file).relative_to(found.folder).parts for file in found.files]
    owners = ["/".join(parts[:-1] if nested_classes else parts[:-1][:1]) for parts in places]
    classes = in_order(owner for owner in owners if owner)
    if splits := _splits_of(found, in_order(name.partition("/")[0] for name in classes)):
        source, notes = FileSource(found.files), [splits]
    elif len(classes) < 2:
        source, notes = FileSource(found.files), _why_unlabelled(found, places, classes)
    else:
        number = {name: i for i, name in enumerate(classes)} | {"": UNLABELLED}
        source = FileSource(found.files, np.array([number[owner] for owner in owners]), classes)
        notes = _notes_on_classes(found, places, classes)
    source.notes = (*found.notes, *(notes if with_labels or splits else ()))
    return source


def _splits_of(found: Found, classes: Sequence[str]) -> str | None:
    if len(classes) < 2 or not {name.lower() for name in classes} <= _SPLITS:
        return None
    return (
        f"The folders {listed(classes)} of {found.folder} are splits, not classes; name one of them, such "
        f"as folder:{found.folder / classes[0]}, and another for validation."
    )


def _why_unlabelled(found: Found, places: list, classes: Sequence[str]) -> list[str]:
    if not classes:
        return [f"{found.folder} has no folders of classes."]
    (name,) = classes
    inner = in_order(parts[1] for parts in places if len(parts) > 2)
    if len(inner) < 2:
        return [f"{found.folder} has one folder of images, {name}; classes are two or more."]
    return [
        f"{found.folder} has one folder of images, {name}; if the folders in it, {listed(inner)}, are the "
        f"classes, name folder:{found.folder / name}."
    ]


def _notes_on_classes(found: Found, places: list, classes: Sequence[str]) -> list[str]:
    notes = []
    stray = [file for file, parts in zip(found.files, places, strict=True) if len(parts) == 1]
    if stray:
        notes.append(f"Images outside the folders of classes, without a label: {listed(stray)}.")
    repeated = {Path(link).name for link in found.repeated if Path(link).parent == found.folder}
    held = {name.partition("/")[0] for name in classes}
    if empty := [name for name in found.children if name not in held | repeated]:
        notes.append(f"Folders without images are not classes: {listed(empty)}.")
    parents = {name.rpartition("/")[0] for name in classes} & set(classes)
    if parents:
        notes.append(
            f"Images beside the folders in {listed(sorted(parents))} are of a class of that name."
        )
    return notes
