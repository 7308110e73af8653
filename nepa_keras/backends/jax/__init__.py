"""JAX: the whole training step is one jitted function of the state."""

from nepa_keras.backends.guard import *
from nepa_keras.backends.portable import *
from nepa_keras.backends.jax.devices import *
from nepa_keras.backends.jax.kernels import *  # after the portable ones, which they replace
from nepa_keras.backends.jax.attention_kernels import attention, attention_form
from nepa_keras.backends.jax.target import platform
from nepa_keras.backends.jax.trainer import *

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
