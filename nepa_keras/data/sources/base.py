"""What every source of images is: encoded images addressed by index."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike


class ImageSource:
    """Images 0..N-1, read one at a time, in any order and by several threads at once.

    Args:
        labels: N class numbers, or None.
        class_names: a name for each class, or None.
    """

    def __init__(self, labels: ArrayLike | None = None, class_names: Sequence[str] | None = None):
        self.labels = None if labels is None else np.asarray(labels, "int32")
        self.class_names = None if class_names is None else tuple(class_names)

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> bytes | np.ndarray:
        """The encoded image, or its pixels (height, width, channels).

        Raises:
            ImageError: it cannot be read.
        """
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What a person finds the image by."""
        raise NotImplementedError

    def mark(self, index: int) -> object:
        """What differs where another image took the place of this one, known without reading it; or None."""
        return None


class ArraySource(ImageSource):
    """Images uint8 (N, height, width, channels) in memory, or in a memory-mapped file."""

    def __init__(
        self,
        images: np.ndarray,
        labels: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(labels, class_names)
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"image {index}"

    def mark(self, index: int) -> int:
        return zlib.crc32(np.ascontiguousarray(self.images[index]))


def size_of(path: str | Path) -> int | None:
    """Of a file in bytes; None of one that is missing."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
