"""Transforms of images for training and evaluation: crops, augmentation, mixing, resizing."""

from nepa_keras.data.transforms.crops import CenterCrop, ImageTransform, RandomResizedCrop, Resize
from nepa_keras.data.transforms.finetuning import FinetuningTransform, RandomErasing
from nepa_keras.data.transforms.mixing import MixupCutmix
from nepa_keras.data.transforms.rand_augment import RandAugment
from nepa_keras.data.transforms.resample import normalize

__all__ = [
    "CenterCrop",
    "FinetuningTransform",
    "ImageTransform",
    "MixupCutmix",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "normalize",
]
