"""Exchange with the official checkpoints."""

from nepa_keras.interop.official import (
    load_official_tensors,
    official_gradients,
    official_tensors,
    save_official_tensors,
)

__all__ = [
    "load_official_tensors",
    "official_gradients",
    "official_tensors",
    "save_official_tensors",
]
