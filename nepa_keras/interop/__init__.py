"""Import and export of official checkpoints, export for serving, and sharing."""

from nepa_keras.interop.export import (
    export_huggingface,
    export_onnx,
    export_saved_model,
    preprocessor_config_of,
    replace_huggingface,
)
from nepa_keras.interop.model_card import model_card
from nepa_keras.interop.sharing import write_to_share
from nepa_keras.presets.checkpoint import Checkpoint, CheckpointError
from nepa_keras.presets.folder import open_checkpoint
from nepa_keras.presets.hub import check_upload
from nepa_keras.presets.hub import upload as push_to_hub
from nepa_keras.presets.load import (
    RULES,
    LoadReport,
    largest_difference,
    load_official_tensors,
)
from nepa_keras.presets.official import official_gradients, official_tensors
from nepa_keras.presets.preset import model_class
from nepa_keras.presets.rewriting import fold_layer_scale

__all__ = [
    "RULES",
    "Checkpoint",
    "CheckpointError",
    "LoadReport",
    "check_upload",
    "export_huggingface",
    "export_onnx",
    "export_saved_model",
    "fold_layer_scale",
    "largest_difference",
    "load_official_tensors",
    "model_card",
    "model_class",
    "official_gradients",
    "official_tensors",
    "open_checkpoint",
    "preprocessor_config_of",
    "push_to_hub",
    "replace_huggingface",
    "write_to_share",
]
