"""Tensors of a checkpoint, read one at a time from one or several safetensors files.

Everything in a file is checked before use; no file can run code or refer outside its folder.
"""

import functools
import json
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
MOST_DIMENSIONS = 8  # axes of a tensor; ours have up to four, NumPy allows 64
_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")  # from DDP, torch.compile, trainers
_LARGEST_JSON = 16 * 2**20  # bytes; the index of a thousand shards is far smaller


class CheckpointError(ValueError):
    """Error for a checkpoint that is damaged, hostile, incomplete, or of another model."""


class TensorEntry(NamedTuple):
    """Shape and dtype of a tensor, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class Checkpoint(Mapping):
    """Mapping of names to arrays (float32, float16 or bfloat16), each read from its file on access.

    Args:
        entries: `TensorEntry` by name.
        source: file name for messages.
        prefix: prefix of all names in the file that was removed, see `without_prefix`.

    Example:
        >>> backbone.save_to_preset("backbone")
        >>> checkpoint = nepa_keras.interop.open_checkpoint("backbone")
        >>> checkpoint["vit_nepa.layernorm.weight"].shape
        (32,)
    """

    def __init__(self, entries: dict[str, TensorEntry], source: str, prefix: str = ""):
        self.entries = entries
        self.source = source
        self.prefix = prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def as_checkpoint(tensors: Mapping[str, np.ndarray]) -> Checkpoint:
    """Wrap a dictionary of arrays as a `Checkpoint`; return a checkpoint unchanged."""
    if isinstance(tensors, Checkpoint):
        return tensors
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    entries = {
        name: TensorEntry(array.shape, array.dtype.name, functools.partial(np.asarray, array))
        for name, array in arrays.items()
    }
    return Checkpoint(entries, "the given tensors")


def without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """Remove a wrapper's prefix from all names, such as "module._orig_mod.".

    Raises:
        CheckpointError: only some of the names have it.
    """
    examples = {name.removesuffix(_PREFIX.sub("", name)): name for name in checkpoint}  # by prefix
    if len(examples) > 1:
        raise CheckpointError(
            f"{checkpoint.source} holds {' and '.join(map(repr, examples.values()))}: a wrapper's prefix is "
            "removed only if all tensors have it; rename the tensors consistently."
        )
    prefix = next(iter(examples), "")
    entries = {name.removeprefix(prefix): entry for name, entry in checkpoint.entries.items()}
    return Checkpoint(entries, checkpoint.source, checkpoint.prefix + prefix)


def open_safetensors(path: str | Path, names: Collection[str] | None = None) -> Checkpoint:
    """Open the tensors of one safetensors file.

    The file is mapped anew for each tensor: a lasting mapping would keep every page that was read in memory.

    Args:
        path: the file.
        names: tensors to include; default all.

    Raises:
        CheckpointError: the file is missing or damaged, or a tensor is missing or has another dtype.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            wanted = file.keys() if names is None else names
            slices = {name: file.get_slice(name) for name in wanted}
            described = {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    entries = {}
    for name, (dtype, shape) in described.items():
        if dtype not in _DTYPES:
            raise CheckpointError(
                f"{path}: {name!r} is of type {dtype}; float32, float16 and bfloat16 are read."
            )
        if len(shape) > MOST_DIMENSIONS:
            raise CheckpointError(f"{path}: {name!r} has {len(shape)} dimensions.")
        read = functools.partial(_read_safetensors, path, name)
        entries[name] = TensorEntry(shape, _DTYPES[dtype], read)
    return Checkpoint(entries, str(path))


def _read_safetensors(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def open_shards(index: Path, open_file: Callable[[Path], Checkpoint]) -> Checkpoint:
    """Open the tensors of several files by their index.

    Args:
        index: JSON file beside them.
        open_file: function that opens one of them.

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
        shards[name] = open_file(index.parent / name)
    held = {tensor: name for name, shard in shards.items() for tensor in shard}
    for tensor, name in weight_map.items():
        if tensor not in shards[name]:
            raise CheckpointError(f"{index} expects {tensor!r} in {name}, which does not hold it.")
    if extra := sorted(set(held) - set(weight_map)):
        raise CheckpointError(f"{index} does not list {extra[0]!r}, which {held[extra[0]]} holds.")
    entries = {t: shards[name].entries[t] for t, name in weight_map.items()}
    return Checkpoint(entries, str(index))


def read_json(path: str | Path) -> dict:
    """Read a JSON file that holds an object.

    Raises:
        CheckpointError: the file is missing, too large, or something else.
    """
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe or device may never end
            raise OSError("it is not a regular file")
        too_large = found.st_size > _LARGEST_JSON
        value = None if too_large else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a readable JSON file: {error}") from None
    if too_large:
        raise CheckpointError(
            f"{path} is larger than {_LARGEST_JSON:,} bytes, too large for a JSON file."
        )
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return value
