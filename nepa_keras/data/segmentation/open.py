"""Pairs by a text on the command line."""

from pathlib import Path

from nepa_keras.data.segmentation.ade20k import ade20k
from nepa_keras.data.segmentation.pairs import FolderPairs, PairSource
from nepa_keras.data.segmentation.scenes import Scenes

SCENES = {"train": 2000, "test": 300}
CLASSES_FILE = "classes.txt"


def open_pairs(text: str, split: str, reduce_zero_label: bool = False) -> PairSource:
    """The pairs that a text names.

    Args:
        text: "scenes" or "scenes:digits", which need no download; "ade20k:PATH"; or "pairs:PATH", a folder
            with `images/` and `masks/`, or these with a folder for each split, and `classes.txt`, one name a
            line.
        split: "train" or "test" ("val" of ADE20K).
        reduce_zero_label: of "pairs", see `FolderPairs`.

    Raises:
        ValueError: an unknown kind, or as the sources.
    """
    kind, _, place = text.partition(":")
    if kind == "scenes":
        return Scenes(place or "embedded", split, SCENES.get(split, 0))
    if kind == "ade20k" and place:
        return ade20k(place, {"test": "val"}.get(split, split))
    if kind != "pairs" or not place:
        raise ValueError(
            f"There are no pairs {text!r}; known are scenes, scenes:digits, ade20k:PATH and pairs:PATH."
        )
    folder = Path(place).expanduser()
    names = folder / CLASSES_FILE
    if not names.is_file():
        raise ValueError(f"{names} is missing; write the name of each class into it, one a line.")
    classes = [line.strip() for line in names.read_text().splitlines() if line.strip()]
    images, masks = folder / "images", folder / "masks"
    if (images / split).is_dir():
        images, masks = images / split, masks / split
    elif split != "train":
        raise ValueError(f"{images} has no folder {split}; name another place for those images.")
    return FolderPairs(images, masks, classes, reduce_zero_label)
