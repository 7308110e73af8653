"""Pairs by a text on the command line."""

from pathlib import Path

import numpy as np

from nepa_keras.data.pixels import ValueRange
from nepa_keras.data.segmentation.ade20k import ade20k
from nepa_keras.data.segmentation.pairs import FolderPairs, PairSource, SubsetPairs
from nepa_keras.data.segmentation.scenes import Scenes

KINDS = ("scenes", "ade20k", "pairs")
SCENES = {"train": 2000, "val": 300, "test": 300}
SPLITS = ("train", "val", "test")
CLASSES_FILE = "classes.txt"


def splits_of(text: str) -> tuple[str, ...]:
    """Which of train, val and test the pairs have that a text names; none where they are not split.

    Raises:
        ValueError: an unknown kind of pairs.
    """
    kind, _, place = text.partition(":")
    if kind == "scenes":
        return tuple(SCENES)
    if kind == "ade20k" and place:
        return ("train", "val")
    if kind != "pairs" or not place:
        raise ValueError(
            f"There are no pairs {text!r}; known are scenes, scenes:digits, ade20k:PATH and pairs:PATH."
        )
    images = Path(place).expanduser() / "images"
    return tuple(split for split in SPLITS if (images / split).is_dir())


def open_pairs(
    text: str,
    split: str | None = None,
    reduce_zero_label: bool = False,
    value_range: ValueRange | None = None,
) -> PairSource:
    """The pairs that a text names.

    Args:
        text: "scenes" or "scenes:digits", which need no download; "ade20k:PATH"; or "pairs:PATH", a folder
            with `images/` and `masks/`, or these with a folder for each split (train, val, test), and
            `classes.txt`, one name a line.
        split: one of `splits_of(text)`; None of pairs that are not split.
        reduce_zero_label: of "pairs", see `FolderPairs`.
        value_range: (lowest, highest) value that become black and white, of images of more than 8 bits;
            scenes have none.

    Raises:
        ValueError: an unknown kind, a split that there is not, or as the sources.
    """
    kind, _, place = text.partition(":")
    splits = splits_of(text)
    if (splits and split not in splits) or (not splits and split):
        raise ValueError(f"{text} has the splits {', '.join(splits) or 'none'}, not {split}.")
    if reduce_zero_label and kind != "pairs":
        raise ValueError(
            "reduce_zero_label is for pairs:PATH; what 0 means in other masks is known."
        )
    if kind in ("scenes", "ade20k"):
        assert split is not None, "one of `splits`"
        if kind == "ade20k":
            return ade20k(place, split, value_range)
        if value_range is not None:
            raise ValueError(
                f"value_range {value_range} is for images of more than 8 bits, which scenes are not."
            )
        return Scenes(place or "embedded", split, SCENES[split])
    folder = Path(place).expanduser()
    names = folder / CLASSES_FILE
    if not names.is_file():
        raise ValueError(f"{names} is missing; write the name of each class into it, one a line.")
    classes = [line.strip() for line in names.read_text().splitlines() if line.strip()]
    return FolderPairs(
        folder / "images" / (split or ""),
        folder / "masks" / (split or ""),
        classes,
        reduce_zero_label,
        value_range=value_range,
    )


def train_and_validation(
    text: str,
    share: float = 0.1,
    seed: int = 1337,
    reduce_zero_label: bool = False,
    value_range: ValueRange | None = None,
) -> tuple[PairSource, PairSource]:
    """Pairs to train on and to choose the best weights by: the split "val", or else a share held out.

    Raises:
        ValueError: there is a split for testing and none for training, a share that leaves no pair for one
            of the two, or as `open_pairs`.
    """
    splits = splits_of(text)
    source = open_pairs(text, "train" if splits else None, reduce_zero_label, value_range)
    if "val" in splits:
        return source, open_pairs(text, "val", reduce_zero_label, value_range)
    order = np.random.default_rng(seed).permutation(len(source))
    count = round(share * len(source))
    if not 0 < count < len(source):
        raise ValueError(
            f"A share of {share} of {len(source)} pairs leaves none for training or validation."
        )
    return SubsetPairs(source, np.sort(order[count:])), SubsetPairs(source, np.sort(order[:count]))


def test_split(text: str) -> str | None:
    """What `open_pairs` takes for testing: "test", else "val", None of pairs that are not split.

    Raises:
        ValueError: as `splits_of`, or there is a split for training alone.
    """
    splits = splits_of(text)
    if splits == ("train",):
        raise ValueError(f"{text} has no split to test with, only train.")
    return splits[-1] if splits else None
