"""PyTorch: blocks compiled on a GPU, the rest eager, with fused kernels for attention and AdamW."""

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
    "all_gather",
    "attention",
    "attention_form",
    "attention_probabilities",
    "compiled",
    "default_jit_compile",
    "device_name",
    "first_batch",
    "gather_variable",
    "gelu",
    "global_batch_size",
    "global_norm",
    "is_distributed",
    "is_lost_process",
    "is_rate",
    "keep_compiled",
    "layer_norm",
    "linear",
    "local_rows",
    "local_value",
    "mean_over_all",
    "mean_over_replicas",
    "optimization_barrier",
    "platform",
    "process",
    "remat",
    "replicas",
    "rotate",
    "rotated_norm",
    "scale_pixels",
    "single_process",
    "start_distribution",
    "sync",
    "weighted_values",
]
