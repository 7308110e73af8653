"""`from_preset` and `save_to_preset`, which all models have."""

from pathlib import Path
from typing import Self

from nepa_keras.presets.official_config import PRETRAINING
from nepa_keras.presets.preset import load_preset, save_preset


class PresetMixin:
    """`from_preset` and `save_to_preset` for a model, whatever it is.

    Attributes:
        has_head: whether the model has a head, which a checkpoint of another model does not have.
        official_architecture: its name in an official `config.json`; None for a model that has none.
        training_only: names of layers around the backbone that only training needs; folders never hold
            them, and what is written is the backbone.
    """

    has_head = False
    official_architecture: str | None = PRETRAINING
    training_only: tuple[str, ...] = ()

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        load_weights: bool = True,
        ema: bool = False,
        fold_layer_scale: bool = False,
        image_size: int | tuple[int, int] | None = None,
        **overrides,
    ) -> Self:
        """A model from a named preset, a folder or the Hugging Face hub.

        Any of the model classes can be made from a checkpoint of another: a classifier from a
        pretrained one gets a new head (pass `num_classes`, as also to replace the head), QK-norm scales
        of one where there were none, and attention to all tokens. What was read, and by which rule
        something was left out or added, is in the attribute `load_report`.

        Args:
            preset: a name of `nepa_keras.PRESETS`; a local folder, ours (`save_to_preset`) or in the
                official layout; a checkpoint of a run, `RUN_DIR/checkpoints/step-XXXXXXXX` (for a run's
                folder see `training.find_weights`); or `hf://owner/name[@revision]`, which needs
                huggingface_hub.
            load_weights: False builds the architecture with fresh weights.
            ema: read the averaged weights in place of the others: `pytorch_model_ema.bin` in place of
                `model.safetensors`, or the averages that a checkpoint of a run keeps.
            fold_layer_scale: multiply LayerScale into the dense layer before it.
            image_size: side or (height, width) in pixels that the model is for, in place of that of the
                preset; the patch must divide it. Rotary positions need nothing, learned ones are resized.
                `NepaImageConverter.from_preset` takes the same argument.
            **overrides: arguments of the model or its backbone that replace those of the preset; and
                `lora_rank`, to train adapters in place of the backbone: see `NepaBackbone.enable_lora`.

        Raises:
            ValueError: unknown preset, folder or argument; an image size that the patch does not divide
                (the message has those next to it that it does); a checkpoint that is damaged, hostile, or
                does not hold exactly the tensors of the model (`interop.CheckpointError`).
            ImportError, OSError: huggingface_hub is missing; the checkpoint cannot be fetched.
        """
        return load_preset(
            cls, preset, load_weights, ema, fold_layer_scale, image_size=image_size, **overrides
        )

    def save_to_preset(self, folder: str | Path) -> None:
        """Writes the architecture and the weights into a folder, for `from_preset`.

        Neither optimizer nor compilation are written: `model.save` keeps those.
        """
        save_preset(self, folder)
