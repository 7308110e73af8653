"""Images that are files: folders, and ImageNet as it comes out of its archives."""

import os
from collections.abc import Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from nepa_keras.data.decode import read_file
from nepa_keras.data.sources.base import ImageSource, size_of
from nepa_keras.packages import required_for

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy")
_DEVKIT_LABELS = "ILSVRC2012_validation_ground_truth.txt"
_DEVKIT_META = "meta.mat"


class FileSource(ImageSource):
    """One image per file."""

    def __init__(
        self,
        files: list[str],
        labels: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(labels, class_names)
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        return read_file(self.files[index])

    def name(self, index: int) -> str:
        return self.files[index]

    def mark(self, index: int) -> object:
        return size_of(self.files[index])


def image_files(path: str | Path) -> list[str]:
    """The image files below a folder at any depth, sorted; links are followed, once each.

    Raises:
        ValueError: the folder is missing, or holds no such file.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; pass an existing one as folder:PATH.")
    files, seen = [], set()
    for parent, children, names in os.walk(folder, followlinks=True):
        children[:] = sorted(c for c in children if not c.startswith("."))
        place = os.path.realpath(parent)
        if place in seen:  # a link to a folder above
            children.clear()
            continue
        seen.add(place)
        files += [
            os.path.join(parent, name)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not files:
        raise ValueError(f"The folder {folder} holds no file ending in {', '.join(SUFFIXES)}.")
    return sorted(files)


def folder_source(path: str | Path) -> FileSource:
    """A folder of images; if all are in subfolders, at least two, those are the classes."""
    folder = Path(path).expanduser()
    files = image_files(folder)
    firsts = [Path(file).relative_to(folder).parts for file in files]
    classes = sorted({parts[0] for parts in firsts if len(parts) > 1})
    if len(classes) < 2 or any(len(parts) == 1 for parts in firsts):
        return FileSource(files)
    number = {name: i for i, name in enumerate(classes)}
    return FileSource(files, [number[parts[0]] for parts in firsts], classes)


def imagenet_source(path: str | Path, split: str = "train") -> FileSource:
    """ImageNet-1k: `train/nXXXX/*.JPEG`, `val/` likewise, or flat with the devkit beside it.

    Classes are numbered by their sorted WordNet ids, as everywhere. The labels of a flat `val/` are read
    from the devkit's two files, anywhere below `path`.

    Args:
        path: the folder that holds `train` and `val`.
        split: "train" or "val".

    Raises:
        ValueError: a folder or file is missing, or the labels do not fit.
        ImportError: SciPy, which reads the devkit's meta.mat, is missing.
    """
    root = Path(path).expanduser()
    folder = root / split
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; imagenet:PATH needs train and val in PATH.")
    source = folder_source(folder)
    if source.labels is not None:
        return source
    if split == "train":
        raise ValueError(f"{folder} must hold a folder for each class, such as n01440764.")
    return FileSource(source.files, *_devkit_labels(root, source.files))


def _devkit_file(root: Path, name: str) -> Path:
    for file in root.rglob(name):
        return file
    raise ValueError(
        f"The validation images are not in folders of classes, and {name} of the devkit "
        f"(ILSVRC2012_devkit_t12) is not below {root}; unpack it there."
    )


def _devkit_labels(root: Path, files: list[str]):
    labels, meta = (_devkit_file(root, name) for name in (_DEVKIT_LABELS, _DEVKIT_META))
    with required_for("Reading the devkit's meta.mat", "scipy"):
        from scipy.io import loadmat
    synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
    wordnet = {
        int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["num_children"]) == 0
    }
    classes = sorted(wordnet.values())
    number = {name: i for i, name in enumerate(classes)}
    ids = labels.read_text().split()
    if len(ids) != len(files):
        raise ValueError(f"{labels} has {len(ids)} labels for {len(files)} validation images.")
    return [number[wordnet[int(i)]] for i in ids], classes
