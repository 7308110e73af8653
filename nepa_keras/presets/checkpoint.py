"""Tensors of a checkpoint folder, read one at a time: safetensors, one file or shards, or a state dict.

Whatever a file says is checked before it is used; no file can run code or lead out of its folder.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LARGEST_JSON = 16 * 2**20  # bytes; the index of a thousand shards is far below


class CheckpointError(ValueError):
    """A checkpoint that is damaged, hostile, incomplete, or not of this model."""


class TensorEntry(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class Checkpoint(Mapping):
    """Names to arrays (float32, float16 or bfloat16), each read from its file when asked for."""

    def __init__(self, entries: dict[str, TensorEntry], source: str):
        self.entries = entries
        self.source = source

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def as_checkpoint(tensors: Mapping[str, np.ndarray]) -> Checkpoint:
    """A dictionary of arrays as a `Checkpoint`; one that is a checkpoint already is returned."""
    if isinstance(tensors, Checkpoint):
        return tensors
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    entries = {
        name: TensorEntry(array.shape, array.dtype.name, functools.partial(np.asarray, array))
        for name, array in arrays.items()
    }
    return Checkpoint(entries, "the given tensors")


def open_safetensors(path: str | Path) -> Checkpoint:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: the file is missing or damaged, or a tensor has another dtype.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        file = safe_open(path, framework="numpy")
        described = {}
        for name in file.keys():  # noqa: SIM118 (no mapping)
            view = file.get_slice(name)
            described[name] = (view.get_dtype(), tuple(view.get_shape()))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    entries = {}
    for name, (dtype, shape) in described.items():
        if dtype not in _DTYPES:
            raise CheckpointError(
                f"{path}: {name!r} is of type {dtype}; float32, float16 and bfloat16 are read."
            )
        entries[name] = TensorEntry(shape, _DTYPES[dtype], functools.partial(file.get_tensor, name))
    return Checkpoint(entries, str(path))


def open_shards(index: Path) -> Checkpoint:
    """The tensors of several safetensors files, as an index says which is where.

    Raises:
        CheckpointError: the index or a file is missing or damaged, or they disagree.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from names to files.")
    shards = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise CheckpointError(f"{index} names the file {name!r}, which is outside its folder.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names the file {name!r}, which is missing.")
        shards[name] = open_safetensors(index.parent / name)
    held = {tensor: name for name, shard in shards.items() for tensor in shard}
    for tensor, name in weight_map.items():
        if tensor not in shards[name]:
            raise CheckpointError(f"{index} expects {tensor!r} in {name}, which does not hold it.")
    if extra := sorted(set(held) - set(weight_map)):
        raise CheckpointError(f"{index} does not list {extra[0]!r}, which {held[extra[0]]} holds.")
    entries = {t: shards[name].entries[t] for t, name in weight_map.items()}
    return Checkpoint(entries, str(index))


def read_json(path: str | Path) -> dict:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: it is missing, too large, or something else.
    """
    path = Path(path)
    try:
        too_large = path.stat().st_size > _LARGEST_JSON
        value = None if too_large else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a readable JSON file: {error}") from None
    if too_large:
        raise CheckpointError(f"{path} is larger than any such file should be.")
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return value
