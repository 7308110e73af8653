"""Files of a preset's folder: configuration, weights, image preprocessing."""

import json
from collections.abc import Sequence
from pathlib import Path

from nepa_keras.files import replacing
from nepa_keras.presets.checkpoint import (
    Checkpoint,
    CheckpointError,
    open_safetensors,
    open_shards,
)
from nepa_keras.presets.state_dict import open_state_dict
from nepa_keras.presets.training_state import STATE, WITHOUT_CONFIG, open_training_state

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, STATE_DICT, EMA = "model.safetensors", "pytorch_model.bin", "pytorch_model_ema.bin"
INDEX = ".index.json"  # suffix for weights that are split into several files


def open_checkpoint(folder: str | Path, ema: bool = False) -> Checkpoint:
    """Open the tensors of a folder: `model.safetensors`, else `pytorch_model.bin`, or shards of either.

    A checkpoint of a run (see `presets.training_state`) is opened too.

    Args:
        folder: folder with the files.
        ema: open the averaged weights instead: `pytorch_model_ema.bin`, or those of the checkpoint.

    Raises:
        CheckpointError: there is no such file, or it is damaged.

    Example:
        >>> backbone.save_to_preset("backbone")
        >>> names = list(open_checkpoint("backbone"))
    """
    folder = Path(folder).expanduser()
    if (folder / STATE).is_file():
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"{folder} has no {CONFIG}{WITHOUT_CONFIG}.")
        return open_training_state(folder / STATE, folder / CONFIG, ema)
    if ema:
        if not (folder / EMA).is_file():
            raise CheckpointError(f"{folder} has no {EMA}; load it without ema=True.")
        return open_state_dict(folder / EMA)
    for weights, open_file in ((WEIGHTS, open_safetensors), (STATE_DICT, open_state_dict)):
        index = folder / f"{weights}{INDEX}"
        if (folder / weights).is_file():
            return open_file(folder / weights)
        if index.is_file():
            return open_shards(index, open_file)
    raise CheckpointError(
        f"{folder} has no weights: neither {WEIGHTS} nor {STATE_DICT}, nor an index of either."
    )


def what_to_give(folder: Path, file: str = CONFIG) -> str:
    """End of a message about a missing file: which folder to give instead."""
    if file == CONFIG and (folder / STATE).is_file():
        return WITHOUT_CONFIG
    inner = [path.parent for path in sorted(folder.glob(f"*/{file}"))]
    inner = inner or [path.parent for path in sorted(folder.glob(f"*/*/{file}"))]
    if inner:
        return f"; give one of its folders that have one: {', '.join(map(str, inner))}"
    if saved := sorted(folder.glob("*.keras")):
        return (
            f"; keras.saving.load_model reads {saved[0]}, and save_to_preset then writes a folder"
        )
    return "; give a folder that save_to_preset, export_huggingface or the authors' code wrote"


def write_checkpoint(folder: str | Path, config: dict, tensors: dict) -> None:
    """Write `config.json` and `model.safetensors`, each atomically."""
    from safetensors.numpy import save_file

    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as path:
        save_file(tensors, path, metadata={"format": "pt"})  # required by transformers
    write_json(folder / CONFIG, config)


def write_json(path: Path, value: dict) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_preprocessor(config: dict, folder: str | Path) -> None:
    """Write `preprocessor_config.json` into a folder, which is created if missing."""
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PREPROCESSOR, config)


def preprocessor_of_size(config: dict, old: Sequence[int], new: Sequence[int]) -> dict:
    """Adapt a `preprocessor_config.json` to another image size; resize and crop are scaled alike.

    Args:
        config: content of the file.
        old, new: image sizes (height, width, ...) before and after.
    """
    if tuple(old[:2]) == tuple(new[:2]):
        return config
    tall, wide = new[0] / old[0], new[1] / old[1]
    # The shortest edge may be either side of an image, and must cover the crop.
    factors = {"height": tall, "width": wide, "shortest_edge": max(tall, wide)}
    resized = dict(config)
    for key in {"size", "crop_size"} & set(config):
        size = config[key]
        if type(size) is int:
            size = {"height": size, "width": size}
        if isinstance(size, dict) and all(type(side) is int for side in size.values()):
            resized[key] = {k: round(side * factors.get(k, 1)) for k, side in size.items()}
    return resized
