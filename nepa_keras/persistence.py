"""The models' door to files: what `from_preset` and `save_to_preset` say, not how it is done.

Models know nothing of files, so `nepa_keras.interop` does the work; it is imported when called, as it
imports the models itself.
"""

from pathlib import Path


class PresetMixin:
    """`from_preset` and `save_to_preset` for a model."""

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        load_weights: bool = True,
        ema: bool = False,
        fold_layer_scale: bool = False,
        **overrides,
    ):
        """A model from a named preset, a folder or the Hugging Face hub.

        Any of the model classes can be made from a checkpoint of another: a classifier from a
        pretrained one gets a new head (pass `num_classes`, as also to replace the head), QK-norm scales
        of one where there were none, and attention to all tokens. What was read, and by which rule
        something was left out or added, is in the attribute `load_report`.

        Args:
            preset: a name of `nepa_keras.PRESETS`; a local folder, ours (`save_to_preset`) or in the
                official layout; or `hf://owner/name[@revision]`, which needs huggingface_hub.
            load_weights: False builds the architecture with fresh weights.
            ema: read `pytorch_model_ema.bin`, the averaged weights, in place of `model.safetensors`.
            fold_layer_scale: multiply LayerScale into the dense layer before it.
            **overrides: arguments of the model or its backbone that replace those of the preset.

        Raises:
            ValueError: unknown preset, folder or argument; a checkpoint that is damaged, hostile, or
                does not hold exactly the tensors of the model (`interop.CheckpointError`).
            ImportError, OSError: huggingface_hub is missing; the checkpoint cannot be fetched.
        """
        from nepa_keras.interop.presets import load_preset

        return load_preset(cls, preset, load_weights, ema, fold_layer_scale, **overrides)

    def save_to_preset(self, folder: str | Path) -> None:
        """Writes the architecture and the weights into a folder, for `from_preset`.

        Neither optimizer nor compilation are written: `model.save` keeps those.
        """
        from nepa_keras.interop.presets import save_preset

        save_preset(self, folder)


def load_image_converter(preset: str | Path) -> dict:
    """The `preprocessor_config.json` of a preset."""
    from nepa_keras.interop.presets import preprocessor_config

    return preprocessor_config(preset)


def save_image_converter(config: dict, folder: str | Path) -> None:
    """Writes `preprocessor_config.json` into a folder."""
    from nepa_keras.interop.presets import PREPROCESSOR, write_json

    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / PREPROCESSOR, config)
