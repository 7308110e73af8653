"""PyTorch: blocks compiled on a GPU, the rest eager, with its fused kernels for attention and AdamW."""

from nepa_keras.backends.guard import *
from nepa_keras.backends.portable import *
from nepa_keras.backends.torch.devices import *
from nepa_keras.backends.torch.kernels import *  # after the portable ones, which they replace
from nepa_keras.backends.torch.trainer import *

__all__ = [
    "LARGEST_RATE",
    "GuardedOptimizer",
    "Model",
    "Trainer",
    "adamw_update",
    "alone",
    "attention",
    "attention_form",
    "attention_probabilities",
    "barrier",
    "compiled",
    "default_jit_compile",
    "device_name",
    "first_batch",
    "gelu",
    "global_norm",
    "images_of_all",
    "is_distributed",
    "is_rate",
    "keep_compiled",
    "layer_norm",
    "linear",
    "may_be_loss",
    "mean_over_all",
    "mean_over_replicas",
    "of_all_processes",
    "part_of_replica",
    "platform",
    "process",
    "remat",
    "replicas",
    "rotate",
    "rotated_norm",
    "scale_pixels",
    "start_distribution",
    "sync",
    "value_here",
    "weighted_values",
    "whole_value",
]
