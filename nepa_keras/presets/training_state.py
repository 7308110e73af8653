"""Weights in a checkpoint of a run, read like those of a preset.

`state.safetensors` holds the training state, with numbered arrays. The `config.json` beside it is that of
`save_to_preset` with one more entry, which gives the places of the weights:

    "training_state": {
        "weights":  {"backbone/block_0/attention/qkv/kernel": "model/00003", ...}
        "averages": the same for the averages of trained weights; empty if there are none yet
        "adapters": {"backbone/block_0/attention/qkv/kernel": 1.0, ...}  alpha / rank of LoRA
    }

Adapters are among the weights and are merged. Files are checked against `manifest.json`.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from keras import ops

from nepa_keras.manifest import check_files
from nepa_keras.presets.checkpoint import (
    Checkpoint,
    CheckpointError,
    TensorEntry,
    open_safetensors,
    read_json,
)
from nepa_keras.presets.official import official_views

STATE = "state.safetensors"
ADAPTERS = ("lora_kernel_a", "lora_kernel_b")  # names of variables
WITHOUT_CONFIG = (
    ": this checkpoint of a run was written by an earlier version, which did not save the model's "
    "architecture; use the final weights of the run, such as ema/ or best/ in its folder, or resume the run, "
    "whose next checkpoint has it"
)
_ENTRY = "training_state"


def describe_state(
    weights: dict[str, str], averages: dict[str, str], adapters: dict[str, float]
) -> dict:
    """Return the entry of `config.json` that gives the places of the weights; see above."""
    return {_ENTRY: {"weights": weights, "averages": averages, "adapters": adapters}}


def keeps_averages(config: Path) -> bool:
    """Tell whether a checkpoint of a run has averaged weights.

    Args:
        config: its `config.json`.

    Raises:
        CheckpointError: the file is damaged, or is something else.
    """
    return bool(_places(config)["averages"])


def open_training_state(state: Path, config: Path, ema: bool = False) -> Checkpoint:
    """Open the weights in a checkpoint of a run by official name.

    Args:
        state: `state.safetensors`.
        config: `config.json` beside it.
        ema: use the averages of the weights that were trained.

    Raises:
        CheckpointError: a file has changed since it was written, or there are no averages.
    """
    folder = state.parent
    try:
        check_files(folder, (state.name, config.name))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is damaged ({error}); give another checkpoint of the run."
        ) from None
    places = _places(config)
    if ema and not places["averages"]:
        raise CheckpointError(f"{folder} has no averaged weights; load it without ema=True.")
    names = places["weights"] | (places["averages"] if ema else {})
    tensors = open_safetensors(state, set(names.values()))
    entries: dict[str, TensorEntry] = {}
    for path, name in names.items():
        if path.endswith(ADAPTERS):
            continue
        try:
            read = tensors.entries[name].read
            if path in places["adapters"]:
                layer = path.removesuffix("/kernel")
                a, b = (tensors.entries[names[f"{layer}/{end}"]].read for end in ADAPTERS)
                read = functools.partial(_merged, read, a, b, places["adapters"][path])
            entries |= _official_entries(path, tensors.entries[name], read)
        except (KeyError, ValueError):  # no such weight, or one of another rank
            raise CheckpointError(f"{config}: {path!r} is not a weight of a NEPA model.") from None
    return Checkpoint(entries, str(state))


def _places(config: Path) -> dict[str, dict]:
    found = read_json(config).get(_ENTRY)
    places = found if isinstance(found, dict) else {}
    kinds = {"weights": str, "averages": str, "adapters": float}
    for key, kind in kinds.items():
        part = places.get(key)
        if not isinstance(part, dict) or not all(isinstance(v, kind) for v in part.values()):
            raise CheckpointError(f"{config} does not give the places of the checkpoint's weights.")
    return places


def _official_entries(
    path: str, entry: TensorEntry, read: Callable[[], np.ndarray]
) -> dict[str, TensorEntry]:
    """Return the official tensors of the variable at `path`."""

    def read_one(name: str) -> np.ndarray:
        return official_views(path, read())[name]

    stand_in = np.broadcast_to(np.float32(0), entry.shape)
    return {
        name: TensorEntry(view.shape, entry.dtype, functools.partial(read_one, name))
        for name, view in official_views(path, stand_in).items()
    }


def _merged(
    kernel: Callable[[], np.ndarray],
    a: Callable[[], np.ndarray],
    b: Callable[[], np.ndarray],
    scale: float,
) -> np.ndarray:
    """Merge a kernel with its adapters, computed as in the layer."""
    product = ops.matmul(ops.convert_to_tensor(a()), ops.convert_to_tensor(b()))
    return ops.convert_to_numpy(ops.convert_to_tensor(kernel()) + product * scale)
