"""What every source of images is: encoded images addressed by index."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from nepa_keras.data.label_matrix import check_matrix
from nepa_keras.data.labels import class_numbers, empty_classes


class ImageSource:
    """Images 0..N-1, read one at a time, in any order and by several threads at once.

    Args:
        labels: N class numbers, -1 for none, or names of classes; or (N, K) zeros and ones, 1 for each class
            that an image shows (multi-label); None without labels.
        class_names: a name for each class, or None.

    Attributes:
        notes: sentences for a person: what was left out, and what of the data looks wrong.

    Raises:
        ValueError: see `class_numbers` and `check_matrix`.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, labels: ArrayLike | None = None, class_names: Sequence[str] | None = None):
        self.labels: np.ndarray | None = None
        self.class_names = None if class_names is None else tuple(class_names)
        if labels is None:
            return
        if getattr(labels, "ndim", 1) == 2:
            self.labels = check_matrix(np.asarray(labels), class_names)
            held = np.flatnonzero(self.labels.any(axis=0))
        else:
            self.labels, self.class_names = class_numbers(labels, class_names=class_names)
            held = self.labels
        if note := empty_classes(held, self.class_names):
            self.notes = (note,)

    @property
    def multi_label(self) -> bool:
        """Whether `labels` are (N, K) zeros and ones, several an image."""
        return self.labels is not None and self.labels.ndim == 2

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
    """Images uint8 (N, height, width, channels) in memory, or in a memory-mapped file.

    Raises:
        ValueError: labels of another number, or see `class_numbers`.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(labels, class_names)
        self.images = images
        if self.labels is not None and len(self.labels) != len(images):
            raise ValueError(f"There are {len(self.labels)} labels for {len(images)} images.")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"image {index}"

    def mark(self, index: int) -> int:
        return zlib.crc32(np.ascontiguousarray(self.images[index]).data)


def size_of(path: str | Path) -> int | None:
    """Of a file in bytes; None of one that is missing."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
