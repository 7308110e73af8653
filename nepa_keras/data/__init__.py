"""Images in: sources, deterministic augmentation, batches for `fit`."""

from nepa_keras.data.arrays import ImageArrays, load
from nepa_keras.data.augment import normalize, random_resized_crops
from nepa_keras.data.batches import AugmentedBatches
from nepa_keras.data.folder import image_files, image_folder
from nepa_keras.data.image_converter import NepaImageConverter

__all__ = [
    "AugmentedBatches",
    "ImageArrays",
    "NepaImageConverter",
    "image_files",
    "image_folder",
    "load",
    "normalize",
    "random_resized_crops",
]
