"""ADE20K as in the benchmark: the Scene Parsing 150 release; other releases are recognised and refused."""

from pathlib import Path

from nepa_keras.data.pixels import ValueRange
from nepa_keras.data.segmentation.pairs import FolderPairs

ARCHIVE = "ADEChallengeData2016"
CLASSES = 150
SPLITS = {"train": "training", "val": "validation"}


def ade20k(
    root: str | Path, split: str = "train", value_range: ValueRange | None = None
) -> FolderPairs:
    """ADE20K from `ADEChallengeData2016/{images,annotations}/{training,validation}`; 20 210 and 2 000 images.

    Value 0 of a mask means no class, value k the class k - 1 of `objectInfo150.txt`.

    Args:
        root: the folder ADEChallengeData2016, or its parent.
        split: "train" or "val".
        value_range: see `FolderPairs`.

    Raises:
        ValueError: the split does not exist, the folder is of another release, or a part is missing.
    """
    if split not in SPLITS:
        raise ValueError(f"ADE20K has the splits train and val, not {split!r}.")
    folder = Path(root).expanduser()
    if (folder / ARCHIVE).is_dir():
        folder = folder / ARCHIVE
    if any(map(_is_full_release, (folder, *folder.glob("ADE20K_*")))):
        raise ValueError(
            f"{folder} is the full ADE20K data set (scenes in folders, masks named _seg.png); needed is the "
            f"archive {ARCHIVE}.zip of the Scene Parsing benchmark."
        )
    images, masks = (folder / kind / SPLITS[split] for kind in ("images", "annotations"))
    for place in (images, masks):
        if not place.is_dir():
            raise ValueError(
                f"There is no folder {place}; {root} should be, or hold, {ARCHIVE} as it comes out of its "
                "archive."
            )
    names = _class_names(folder / "objectInfo150.txt")
    return FolderPairs(images, masks, names, reduce_zero_label=True, value_range=value_range)


def _is_full_release(folder: Path) -> bool:
    if any(folder.glob("index_ade20k.*")) or (folder / "images" / "ADE").is_dir():
        return True
    training = folder / "images" / "training"
    return training.is_dir() and any(entry.is_dir() for entry in training.iterdir())


def _class_names(path: Path) -> list[str]:
    """First name of each class, from a table with the columns Idx, Ratio, Train, Val, Name."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; it comes with the archive and names the classes.")
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:] if line.strip()]
    names = [row[-1].split(",")[0].strip() for row in rows]
    if len(names) != CLASSES:
        raise ValueError(f"{path} names {len(names)} classes; there are {CLASSES}.")
    return names
