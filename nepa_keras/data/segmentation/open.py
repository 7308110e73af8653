"""Opening of a source of images with masks by a text such as "pairs:PATH"."""

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
    """Splits (of train, val and test) of the source that a text names; empty if it is not split.

    Raises:
        ValueError: the kind of source is unknown.
    """
    kind, _, place = text.partition(":")
    if kind == "scenes":
        return tuple(SCENES)
    if kind == "ade20k" and place:
        return ("train", "val")
    if kind != "pairs" or not place:
        raise ValueError(
            f"There are no images with masks {text!r}; known are scenes, scenes:digits, ade20k:PATH and "
            "pairs:PATH."
        )
    images = Path(place).expanduser() / "images"
    return tuple(split for split in SPLITS if (images / split).is_dir())


def open_pairs(
    text: str,
    split: str | None = None,
    reduce_zero_label: bool = False,
    value_range: ValueRange | None = None,
) -> PairSource:
    """Open the source of images with masks that a text names.

    Args:
        text: "scenes" or "scenes:digits", which need no download; "ade20k:PATH"; or "pairs:PATH", a folder
            with `classes.txt`, one name per line, and with `images/` and `masks/`, or with these in a folder
            for each split (train, val, test).
        split: one of `splits_of(text)`; None for a source that is not split.
        reduce_zero_label: for "pairs", see `FolderPairs`.
        value_range: (lowest, highest) value that become black and white, for images of more than 8 bits;
            scenes have none.

    Raises:
        ValueError: the kind or the split does not exist, or the source is refused.
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
    """Images for training and for choosing the best weights: the split "val", or a held-out share.

    Raises:
        ValueError: there is a test split but none for training, the share leaves no image for one of the
            two, or `open_pairs` refuses the source.
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
    """Split for testing: "test", else "val"; None for a source that is not split.

    Raises:
        ValueError: there is only a training split, or the kind of source is unknown.
    """
    splits = splits_of(text)
    if splits == ("train",):
        raise ValueError(f"{text} has no split to test with, only train.")
    return splits[-1] if splits else None
