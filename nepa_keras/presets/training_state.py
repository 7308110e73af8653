"""The weights in a checkpoint of a run, read as those of a preset.

Beside `state.safetensors`, the state of training with its arrays by number, lies a `config.json` as
`save_to_preset` writes it, with one more entry that says where the weights are:

    "training_state": {
        "weights":  {"backbone/block_0/attention/qkv/kernel": "model/00003", ...}
        "averages": the same of the trained ones; empty where none are kept, or no step was made
        "adapters": {"backbone/block_0/attention/qkv/kernel": 1.0, ...}  alpha / rank of LoRA
    }

Adapters are among the weights and are merged. What the files are checked against is their `manifest.json`.
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
    ", as an earlier version wrote this checkpoint of a run and did not keep what model it is of; give the "
    "weights of the run's end, such as ema/ or best/ in its folder, or go on with the run, whose next "
    "checkpoint has it"
)
_ENTRY = "training_state"


def describe_state(
    weights: dict[str, str], averages: dict[str, str], adapters: dict[str, float]
) -> dict:
    """The entry of `config.json` that says where the weights are; see above."""
    return {_ENTRY: {"weights": weights, "averages": averages, "adapters": adapters}}


def keeps_averages(config: Path) -> bool:
    """Whether a checkpoint of a run has averaged weights.

    Args:
        config: its `config.json`.

    Raises:
        CheckpointError: it is damaged, or of something else.
    """
    return bool(_places(config)["averages"])


def open_training_state(state: Path, config: Path, ema: bool = False) -> Checkpoint:
    """The weights in a checkpoint of a run under their official names, each read when asked for.

    Args:
        state: `state.safetensors`.
        config: `config.json` beside it.
        ema: take the averages of those weights that were trained.

    Raises:
        CheckpointError: a file is not as it was written, or there are no averages.
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
            raise CheckpointError(f"{config}: {path!r} is no weight of a NEPA model.") from None
    return Checkpoint(entries, str(state))


def _places(config: Path) -> dict[str, dict]:
    found = read_json(config).get(_ENTRY)
    places = found if isinstance(found, dict) else {}
    kinds = {"weights": str, "averages": str, "adapters": float}
    for key, kind in kinds.items():
        part = places.get(key)
        if not isinstance(part, dict) or not all(isinstance(v, kind) for v in part.values()):
            raise CheckpointError(f"{config} does not say where the weights of the checkpoint are.")
    return places


def _official_entries(
    path: str, entry: TensorEntry, read: Callable[[], np.ndarray]
) -> dict[str, TensorEntry]:
    """The official tensors of the variable at `path`."""

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
    """A kernel with its adapters, computed as the layer does."""
    product = ops.matmul(ops.convert_to_tensor(a()), ops.convert_to_tensor(b()))
    return ops.convert_to_numpy(ops.convert_to_tensor(kernel()) + product * scale)
