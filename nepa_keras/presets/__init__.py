"""Named architectures and checkpoints: what `from_preset` reads and `save_to_preset` writes.

Beneath the models, which find here their way to files; `nepa_keras.interop` has the rest of what users call.
"""

from nepa_keras.presets.mixin import PresetMixin
from nepa_keras.presets.names import PRESETS, RELEASED, preset_config
from nepa_keras.presets.preset import backbone_of

__all__ = ["PRESETS", "RELEASED", "PresetMixin", "backbone_of", "preset_config"]
