"""NEPA, Next-Embedding Predictive Autoregression (arXiv 2512.16922), for Keras 3.

NepaBackbone         the Vision Transformer
NepaPretrainer       the objective; compile, fit, evaluate
objectives           others beside it
NepaImageClassifier  fine-tuning
NepaImageSegmenter   a class for each pixel
NepaImageConverter   pictures to what a model takes
EmbeddingRollout     the model reading its own predictions
clone_backbone       the same weights in another configuration
distribute           many devices
training             optimizer, schedule, averaged weights
layers, data, evaluation, performance, visualization, interop
"""

from nepa_keras import (
    backends,  # noqa: F401  first: it says in one sentence which backend is wrong or missing
    data,
    evaluation,
    interop,
    layers,
    objectives,
    performance,
    training,
    visualization,
)
from nepa_keras.backbone import NepaBackbone
from nepa_keras.classifier import NepaImageClassifier
from nepa_keras.clone import clone_backbone
from nepa_keras.data import NepaImageConverter
from nepa_keras.distribution import distribute
from nepa_keras.nepa import NepaPretrainer, nepa_loss
from nepa_keras.presets import PRESETS, RELEASED
from nepa_keras.rollout import EmbeddingRollout
from nepa_keras.segmenter import NepaImageSegmenter
from nepa_keras.skipped_steps import NonFiniteError

__version__ = "0.2.0"

__all__ = [
    "PRESETS",
    "RELEASED",
    "EmbeddingRollout",
    "NepaBackbone",
    "NepaImageClassifier",
    "NepaImageConverter",
    "NepaImageSegmenter",
    "NepaPretrainer",
    "NonFiniteError",
    "clone_backbone",
    "data",
    "distribute",
    "evaluation",
    "interop",
    "layers",
    "nepa_loss",
    "objectives",
    "performance",
    "training",
    "visualization",
]
