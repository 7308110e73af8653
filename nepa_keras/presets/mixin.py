"""`from_preset` and `save_to_preset` of all models."""

from pathlib import Path
from typing import Self

from nepa_keras.presets.official_config import PRETRAINING
from nepa_keras.presets.preset import load_preset, save_preset


class PresetMixin:
    """Base class with `from_preset` and `save_to_preset`.

    Attributes:
        has_head: the model has a head, which a checkpoint of another model lacks.
        official_architecture: name in an official `config.json`; None for a model that has none.
        training_only: names of layers around the backbone that only training needs. Such a model is written
            as its backbone.
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
        """Create a model from a named preset, a folder or the Hugging Face hub.

        Each model class can be created from a checkpoint of another class. A classifier from a pretrained
        checkpoint gets a new head (pass `num_classes`, also to replace an existing head), QK-norm scales of
        one if there are none, and bidirectional attention. The attribute `load_report` tells what was read
        and which rules were applied.

        Args:
            preset: a name in `nepa_keras.PRESETS`; a local folder, written by `save_to_preset` or in the
                official layout; a checkpoint of a run, `RUN_DIR/checkpoints/step-XXXXXXXX` (for a run's
                folder see `training.find_weights`); or `hf://owner/name[@revision]`, which needs
                huggingface_hub.
            load_weights: False initialises the weights instead of loading them.
            ema: read the averaged weights: `pytorch_model_ema.bin` in place of `model.safetensors`, or the
                averages in a checkpoint of a run.
            fold_layer_scale: multiply LayerScale into the dense layer before it.
            image_size: side or (height, width) in pixels, in place of the preset's size; the patch must
                divide it. Learned positions are resized. `NepaImageConverter.from_preset` takes the same
                argument.
            **overrides: arguments of the model or its backbone that replace those of the preset; and
                `lora_rank`, to train adapters in place of the backbone, see `NepaBackbone.enable_lora`.

        Raises:
            ValueError: unknown preset, folder or argument; an image size that the patch does not divide (the
                message names the nearest valid sizes); a checkpoint that is damaged, hostile, or does not
                hold exactly the tensors of the model (`interop.CheckpointError`).
            ImportError: huggingface_hub is missing.
            OSError: the checkpoint cannot be fetched.

        Example:
            >>> backbone.save_to_preset("backbone")
            >>> classifier = nepa_keras.NepaImageClassifier.from_preset("backbone", num_classes=10)
        """
        return load_preset(
            cls, preset, load_weights, ema, fold_layer_scale, image_size=image_size, **overrides
        )

    def save_to_preset(self, folder: str | Path) -> None:
        """Write architecture and weights into a folder, for `from_preset`.

        Optimizer and compilation are not written: use `model.save` to keep those.
        """
        save_preset(self, folder)
