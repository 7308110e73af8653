"""Input data: sources of images, deterministic augmentation, batches for `fit` and for evaluation."""

from nepa_keras.data import segmentation
from nepa_keras.data.arrays import ImageArrays, load
from nepa_keras.data.bad_images import BadImages, BadImagesError
from nepa_keras.data.batches import AugmentedBatches
from nepa_keras.data.copy import copy_to_records
from nepa_keras.data.decode import ImageError, decode_image
from nepa_keras.data.fingerprint import fingerprint
from nepa_keras.data.image_converter import NepaImageConverter
from nepa_keras.data.inspect_source import SourceReport, inspect_source
from nepa_keras.data.keras_cv_batches import keras_cv_batches
from nepa_keras.data.network import NetworkError, use_cache
from nepa_keras.data.ordered import OrderedBatches
from nepa_keras.data.sources import (
    ArraySource,
    FileSource,
    ImageSource,
    SubsetSource,
    held_out,
    image_files,
    open_source,
    with_classes,
)
from nepa_keras.data.stored_ranges import source_range_note
from nepa_keras.data.transforms import (
    CenterCrop,
    FinetuningTransform,
    ImageTransform,
    MixupCutmix,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    normalize,
)
from nepa_keras.renamed import former_names

__all__ = [
    "ArraySource",
    "AugmentedBatches",
    "BadImages",
    "BadImagesError",
    "CenterCrop",
    "FileSource",
    "FinetuningTransform",
    "ImageArrays",
    "ImageError",
    "ImageSource",
    "ImageTransform",
    "MixupCutmix",
    "NepaImageConverter",
    "NetworkError",
    "OrderedBatches",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "SourceReport",
    "SubsetSource",
    "copy_to_records",
    "decode_image",
    "fingerprint",
    "held_out",
    "image_files",
    "inspect_source",
    "keras_cv_batches",
    "load",
    "normalize",
    "open_source",
    "segmentation",
    "source_range_note",
    "use_cache",
    "with_classes",
]

__getattr__ = former_names(
    __name__,
    {
        "Survey": "SourceReport",
        "survey": "inspect_source",
    },
)
