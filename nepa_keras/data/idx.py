"""IDX files, the format in which Fashion-MNIST is published."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from nepa_keras.files import open_regular

_LARGEST = 2**28  # bytes, decompressed; the largest official file has 47 million
FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def read_idx(path: str | Path) -> np.ndarray:
    """Read the uint8 array in a gzipped IDX file.

    Raises:
        ValueError: the file is missing, is not gzip, is not IDX of bytes, or its size does not match its
            header.
    """
    try:
        with open_regular(path) as packed, gzip.open(packed) as file:
            content = file.read(_LARGEST)
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a complete gzip file ({error}); download it again."
        ) from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of bytes; download it again.")
    rank = content[3]
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:header]) if len(content) >= header else ()
    if len(shape) != rank or len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} does not hold as many bytes as its header says; download it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def read_fashion_mnist(folder: str | Path) -> dict[str, np.ndarray]:
    """Read the four official files of a folder: images (B, 28, 28) and labels (B,)."""
    folder = Path(folder).expanduser()
    return {name: read_idx(folder / file) for name, file in FILES.items()}
