"""The files of a preset's folder: configuration, weights, and how images are prepared."""

import json
from pathlib import Path

from nepa_keras.files import replacing
from nepa_keras.presets.checkpoint import (
    Checkpoint,
    CheckpointError,
    open_safetensors,
    open_shards,
)
from nepa_keras.presets.state_dict import open_state_dict

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX, EMA = "model.safetensors", "model.safetensors.index.json", "pytorch_model_ema.bin"


def open_checkpoint(folder: str | Path, ema: bool = False) -> Checkpoint:
    """The tensors of a folder: `model.safetensors`, its shards, or with `ema` the averaged weights.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    folder = Path(folder)
    if ema:
        if not (folder / EMA).is_file():
            raise CheckpointError(f"{folder} has no {EMA}; load it without ema=True.")
        return open_state_dict(folder / EMA)
    if (folder / WEIGHTS).is_file():
        return open_safetensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return open_shards(folder / INDEX)
    raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {INDEX}.")


def write_checkpoint(folder: str | Path, config: dict, tensors: dict) -> None:
    """Writes `config.json` and `model.safetensors`; each is whole or not there."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as path:
        save_file(tensors, path, metadata={"format": "pt"})  # transformers asks for that word
    write_json(folder / CONFIG, config)


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_preprocessor(config: dict, folder: str | Path) -> None:
    """Writes `preprocessor_config.json` into a folder, which is created if missing."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / PREPROCESSOR, config)
