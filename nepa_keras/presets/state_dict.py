"""State dicts written by `torch.save`, read without PyTorch and without running code in them.

Such a file is a zip archive of one pickle and the raw bytes of each tensor. The pickle may refer to six kinds
of objects, all listed here; anything else is refused before it is looked up.
"""

import functools
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from nepa_keras.presets.checkpoint import (
    MOST_DIMENSIONS,
    Checkpoint,
    CheckpointError,
    TensorEntry,
)

_STORAGES = {
    "FloatStorage": np.dtype("float32"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
}
_LARGEST_PICKLE = 16 * 2**20  # bytes; names and shapes of five hundred tensors need 0.1 MB


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """Stand-in for `torch._utils._rebuild_tensor_v2` that only checks its arguments."""
    if not isinstance(storage, _Storage):
        raise CheckpointError("a tensor without a storage")
    numbers = (offset, *shape, *strides)
    fits = len(shape) == len(strides) <= MOST_DIMENSIONS
    if not fits or not all(type(n) is int and 0 <= n < 2**40 for n in numbers):
        raise CheckpointError("a tensor of impossible shape")
    expected, size = [], 1
    for length in reversed(shape):
        expected.append(size)
        size *= length
    dense = [s for s, n in zip(strides, shape, strict=True) if n != 1]
    if dense != [s for s, n in zip(reversed(expected), shape, strict=True) if n != 1]:
        raise CheckpointError("a tensor that is not stored row by row")
    if offset + size > storage.length:
        raise CheckpointError("a tensor that is larger than its storage")
    return _Tensor(storage, offset, tuple(shape))


def _rebuild_parameter(tensor, *_):
    """Stand-in for `torch._utils._rebuild_parameter`; whether it is trained does not matter."""
    return tensor


class _StateDictUnpickler(pickle._Unpickler):  # the C version allocates memory for any memo index
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise CheckpointError(f"it asks for {module}.{name}, which no state dict needs")

    def persistent_load(self, reference):
        kind, dtype, key, _, count = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or type(count) is not int:
            raise CheckpointError("a reference to something other than a storage")
        return _Storage(str(key), dtype, count)

    def get_extension(self, code):
        raise CheckpointError("it uses the extension registry, which no state dict needs")


def open_state_dict(path: str | Path) -> Checkpoint:
    """Open the tensors of a state dict written by `torch.save` (PyTorch 1.6 or later).

    Raises:
        CheckpointError: the file is damaged, holds anything but named tensors, or would run code.
    """
    path = Path(path)
    try:
        archive = zipfile.ZipFile(path)
        return Checkpoint(_entries(archive), str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}.") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path} is not a readable state dict of PyTorch 1.6 or later: "
            f"{type(error).__name__} {error}"
        ) from None


def _entries(archive: zipfile.ZipFile) -> dict[str, TensorEntry]:
    members = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise CheckpointError("a compressed member, which PyTorch never writes")
    pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1 or members[pickles[0]].file_size > _LARGEST_PICKLE:
        raise CheckpointError("not exactly one pickle of names and shapes")
    folder = pickles[0].split("/")[0]
    if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
        raise CheckpointError("a byte order other than little")
    with archive.open(pickles[0]) as file:
        tensors = _StateDictUnpickler(file).load()
    if not isinstance(tensors, dict):
        raise CheckpointError("no dictionary of tensors")
    entries = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise CheckpointError(f"{name!r} is no tensor of float32, float16 or bfloat16")
        storage = tensor.storage
        member = members.get(f"{folder}/data/{storage.key}")
        if member is None or member.file_size != storage.length * storage.dtype.itemsize:
            raise CheckpointError(f"the bytes of {name!r} are missing or of another length")
        entries[name] = TensorEntry(
            tensor.shape, storage.dtype.name, functools.partial(_read, archive, member, tensor)
        )
    return entries


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, tensor: _Tensor) -> np.ndarray:
    try:
        flat = np.frombuffer(archive.read(member), tensor.storage.dtype)  # checks the CRC, too
    except Exception as error:  # a damaged zip header can raise anything too
        raise CheckpointError(f"{archive.filename} is damaged: {error}") from None
    size = int(np.prod(tensor.shape, dtype=np.int64))
    return flat[tensor.offset : tensor.offset + size].reshape(tensor.shape)
