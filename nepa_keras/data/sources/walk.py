"""Search for image files below a folder, with a record of what else is there."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nepa_keras.data.formats import DICOM, INSTALLS, register_formats
from nepa_keras.files import printable

_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .npy".split()
)
_OF_SOME_PILLOWS = frozenset({".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k"})
# Folders that network drives, systems and tools add to a user's own, full of thumbnails and copies.
_OF_TOOLS = frozenset(
    {
        "@eaDir",
        "@Recently-Snapshot",
        "@Recycle",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "__MACOSX",
        "__pycache__",
        "lost+found",
        "System Volume Information",
        "Thumbs",
    }
)
_SHOWN = 5


def image_endings() -> frozenset[str]:
    """Lower-case endings of image files that can be read; some depend on the installed packages."""
    from PIL import Image, features

    register_formats()
    optional = _OF_SOME_PILLOWS & set(Image.EXTENSION)
    return _ENDINGS | (optional if features.check("jpg_2000") else optional - {".jp2", ".j2k"})


def ending(name: str) -> str:
    """Ending of a file's name in lower case, or "" if it has none."""
    return os.path.splitext(name)[1].lower()


def listed(names: Iterable[str]) -> str:
    """First few of some names, as text for a sentence."""
    names = [printable(name) for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@dataclass
class Others:
    """Files that are not read: number of files of each ending, and an example."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Count a file."""
        self.counts[ending(name)] += 1
        self.examples.setdefault(ending(name), name)

    def add_all(self, counts: Mapping[str, int], examples: Mapping[str, str]) -> None:
        """Add counts made elsewhere."""
        self.counts.update(counts)
        self.examples = {**examples, **self.examples}

    def __bool__(self) -> bool:
        return bool(self.counts)


def passed_over(others: Others) -> str:
    """Sentences on files that are not read, and on how to make them readable."""
    endings = [name for name, _ in others.counts.most_common()]
    endings.sort(key=lambda name: name not in INSTALLS and name not in DICOM)  # pictures first
    counts = listed(f"{others.counts[name]:,} {name or 'without one'}" for name in endings)
    installs: dict[str, list[str]] = {}
    for name in endings:
        if name in INSTALLS:
            installs.setdefault(INSTALLS[name], []).append(name)
    commands = "".join(
        f" {command} brings what reads {', '.join(names)}." for command, names in installs.items()
    )
    dicom = ", ".join(name for name in endings if name in DICOM)
    if dicom:
        commands += (
            f" DICOM ({dicom}) is read once its pixels are saved as arrays, by numpy.save(NAME, "
            "pydicom.dcmread(FILE).pixel_array) after pip install pydicom; --value_range then says which "
            "values are black and white."
        )
    which = "Other pictures" if commands else "Pictures"
    return (
        f"Passed over by the ending of their names: {counts}; such as "
        f"{listed(others.examples[name] for name in endings)}.{commands} {which} among them are read once "
        "they are saved as JPEG or PNG, of more than 8 bits as PNG, TIFF or .npy."
    )


@dataclass
class Found:
    """Image files below a folder, and what else is there.

    Attributes:
        folder: the folder.
        files: paths of the images, sorted.
        children: names of the folders directly in it, sorted, without those of tools.
        others: files whose ending is not that of an image, by their paths relative to the folder.
        tools: number of images in hidden folders and in those of tools, by name of the folder.
        repeated: links to folders that are read by another path.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    others: Others = field(default_factory=Others)
    tools: Counter[str] = field(default_factory=Counter)
    repeated: list[str] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is left out."""
        notes = []
        if self.others:
            notes.append(passed_over(self.others))
        if self.tools:
            counts = listed(f"{count:,} in {name}" for name, count in self.tools.most_common())
            notes.append(f"Left out, images in hidden folders and those of tools: {counts}.")
        if self.repeated:
            notes.append(
                f"Links to folders that are read already count once: {listed(self.repeated)}."
            )
        return tuple(notes)


def find_images(path: str | Path) -> Found:
    """Find the image files below a folder, at any depth; links are followed once each, after other folders.

    Raises:
        ValueError: the folder is missing or holds no image, or a folder in it cannot be read.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; pass an existing one as folder:PATH.")
    found, endings, seen = Found(folder), image_endings(), set()
    left = [str(folder)]
    while left:
        start = left.pop(0)
        if os.path.realpath(start) in seen:
            found.repeated.append(start)
            continue
        for parent, children, names in os.walk(start, onerror=_refuse):
            place = os.path.realpath(parent)
            if place in seen:  # reached by a link to a folder above
                children.clear()
                continue
            seen.add(place)
            for child in [c for c in children if c.startswith(".") or c in _OF_TOOLS]:
                children.remove(child)
                if images := _count(os.path.join(parent, child), endings):
                    found.tools[child] += images
            children.sort()
            if parent == str(folder):
                found.children = list(children)
            paths = (os.path.join(parent, child) for child in children)
            left += [path for path in paths if os.path.islink(path)]
            for name in names:
                _add_file(found, os.path.join(parent, name), name, endings)
    if not found.files:
        others = f" {passed_over(found.others)}" if found.others else ""
        raise ValueError(
            f"The folder {folder} holds no file ending in {', '.join(sorted(endings))}.{others}"
        )
    found.files.sort()
    return found


def _add_file(found: Found, path: str, name: str, endings: frozenset[str]) -> None:
    if name.startswith("."):
        return
    if ending(name) in endings:
        found.files.append(path)
    elif not ending(name) and os.path.islink(path) and not os.path.exists(path):
        # May well be a folder of images; leaving it out would number the classes differently.
        raise ValueError(f"{printable(str(path))} is a broken link; repair or remove it.")
    else:
        found.others.add(os.path.relpath(path, found.folder))


def _refuse(error: OSError) -> None:
    raise ValueError(
        f"The folder {printable(str(error.filename))} cannot be read ({error.strerror}); make it readable, "
        "or remove it."
    )


def _count(folder: str, endings: frozenset[str]) -> int:
    """Number of images below a folder, as far as it can be read."""
    return sum(ending(name) in endings for _, _, names in os.walk(folder) for name in names)


def image_files(path: str | Path) -> list[str]:
    """Paths of the image files below a folder, at any depth, sorted; links are followed once each.

    Raises:
        ValueError: the folder is missing or holds no image, or a folder in it cannot be read.
    """
    return find_images(path).files
