"""ImageNet-1k as unpacked from its archives or from Kaggle's."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nepa_keras.data.sources.files import FileSource, folder_source
from nepa_keras.packages import required_for

_DEVKIT_LABELS = "ILSVRC2012_validation_ground_truth.txt"
_DEVKIT_META = "meta.mat"
_KAGGLE_TREE = Path("ILSVRC", "Data", "CLS-LOC")
_KAGGLE_LABELS = "LOC_val_solution.csv"
_KAGGLE_CLASSES = "LOC_synset_mapping.txt"


def imagenet_source(path: str | Path, split: str = "train") -> FileSource:
    """Open ImageNet-1k: `train/nXXXX/*.JPEG`, and `val/` likewise or flat with a file of its labels.

    Classes are numbered in the order of their sorted WordNet ids, as is usual. The labels of a flat `val/`
    are read from Kaggle's `LOC_val_solution.csv` in `path` or a folder above the images, or else from the two
    files of the devkit, anywhere below `path`.

    Args:
        path: the folder that holds `train` and `val`, or Kaggle's `ILSVRC/Data/CLS-LOC` with them.
        split: "train" or "val".

    Raises:
        ValueError: a folder or file is missing, or the labels do not fit.
        ImportError: SciPy, which reads the devkit's meta.mat, is missing.
    """
    root = Path(path).expanduser()
    inner = (Path(), _KAGGLE_TREE, *(_KAGGLE_TREE.relative_to(p) for p in _KAGGLE_TREE.parents[:2]))
    folder = next((root / p / split for p in inner if (root / p / split).is_dir()), root / split)
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {folder}; imagenet:PATH needs train and val in PATH, or in its folder "
            f"{_KAGGLE_TREE}."
        )
    source = folder_source(folder, with_labels=True)
    if source.labels is not None:
        return source
    if split == "train":
        raise ValueError(
            f"{folder} must hold a folder for each class, such as n01440764. {source.notes[-1]}"
        )
    labelled = FileSource(source.files, *_validation_labels(root, folder, source.files))
    labelled.notes = (*source.notes[:-1], *labelled.notes)
    return labelled


def _validation_labels(root: Path, folder: Path, files: list[str]):
    above = (root, *folder.resolve().parents[:4])  # up to the parent of ILSVRC
    for solution in (place / _KAGGLE_LABELS for place in above):
        if solution.is_file():
            return _kaggle_labels(solution, files)
    return _devkit_labels(root, files)


def _kaggle_labels(solution: Path, files: list[str]):
    """Labels from rows `ILSVRC2012_val_00048981,n03995372 85 1 499 272`: the class is the first word."""
    with open(solution, newline="", encoding="utf-8", errors="replace") as table:
        try:
            rows = list(csv.reader(table))
        except csv.Error as error:
            raise ValueError(f"{solution} is damaged: {error}; download it again.") from None
    wordnet = {row[0]: row[1].split()[0] for row in rows[1:] if len(row) == 2 and row[1].strip()}
    classes = kaggle_classes(solution) or sorted(set(wordnet.values()))
    number = {name: i for i, name in enumerate(classes)}
    labels = []
    for image in files:
        name = wordnet.get(Path(image).stem)
        if name not in number:
            raise ValueError(f"{solution} has no class for {Path(image).name}; download it again.")
        labels.append(number[name])
    return np.array(labels), classes


def kaggle_classes(solution: Path) -> tuple[str, ...] | None:
    """Sorted WordNet ids of Kaggle's `LOC_synset_mapping.txt` beside a solution file; None without it."""
    mapping = solution.with_name(_KAGGLE_CLASSES)
    if not mapping.is_file():
        return None
    lines = mapping.read_text("utf-8", errors="replace").splitlines()
    return tuple(sorted(line.split()[0] for line in lines if line.strip()))


def kaggle_images(solution: Path) -> Path | None:
    """Folder of the validation images in Kaggle's tree of a `LOC_val_solution.csv`; None for another file."""
    folder = solution.parent / _KAGGLE_TREE / "val"
    return folder if solution.name == _KAGGLE_LABELS and folder.is_dir() else None


def _devkit_file(root: Path, name: str) -> Path:
    for file in root.rglob(name):
        return file
    raise ValueError(
        f"The validation images are not in folders of classes, and {name} of the devkit "
        f"(ILSVRC2012_devkit_t12) is not below {root}; unpack it there, or Kaggle's {_KAGGLE_LABELS}."
    )


def _devkit_labels(root: Path, files: Sequence[str]):
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
    known = {str(i) for i in wordnet}
    if unknown := next((i for i in ids if i not in known), None):
        raise ValueError(f"{labels}: {unknown} is the number of no class in {meta}.")
    return np.array([number[wordnet[int(i)]] for i in ids]), classes
