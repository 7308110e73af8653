"""Named architectures, and the files that `from_preset` reads and `save_to_preset` writes.

The models depend on this package; the rest of the file interface is in `nepa_keras.interop`.
"""

from nepa_keras.presets.mixin import PresetMixin
from nepa_keras.presets.names import PRESETS, RELEASED, preset_config
from nepa_keras.presets.preset import backbone_of

__all__ = ["PRESETS", "RELEASED", "PresetMixin", "backbone_of", "preset_config"]
