"""NEPA, Next-Embedding Predictive Autoregression (arXiv 2512.16922), for Keras 3.

NepaBackbone         Vision Transformer
NepaPretrainer       pretraining with the paper's objective
objectives           other pretraining objectives
NepaImageClassifier  image classification
NepaImageSegmenter   semantic segmentation
NepaImageConverter   preprocessing of images
EmbeddingRollout     generation of embeddings from the model's own predictions
clone_backbone       copy of a backbone in another configuration
distribute           training on many devices
training             optimizer, schedules, averaged weights, checkpoints
layers, data, evaluation, performance, visualization, interop
"""

from nepa_keras import (
    backends,  # noqa: F401  imported first: it reports a wrong or missing backend in one sentence
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
