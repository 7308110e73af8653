"""Images with a class for each pixel: sources, joint transforms, batches for `fit`."""

from nepa_keras.data.segmentation.ade20k import ade20k
from nepa_keras.data.segmentation.batches import SegmentationBatches
from nepa_keras.data.segmentation.mask_notes import mask_notes
from nepa_keras.data.segmentation.open import (
    KINDS,
    open_pairs,
    splits_of,
    test_split,
    train_and_validation,
)
from nepa_keras.data.segmentation.pairs import IGNORED, FolderPairs, PairSource, SubsetPairs
from nepa_keras.data.segmentation.scenes import Scenes
from nepa_keras.data.segmentation.transforms import SegmentationTransform, fitting_size

__all__ = [
    "IGNORED",
    "KINDS",
    "FolderPairs",
    "PairSource",
    "Scenes",
    "SegmentationBatches",
    "SegmentationTransform",
    "SubsetPairs",
    "ade20k",
    "fitting_size",
    "mask_notes",
    "open_pairs",
    "splits_of",
    "test_split",
    "train_and_validation",
]
