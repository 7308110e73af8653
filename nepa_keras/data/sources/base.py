"""Base class of all sources: encoded images addressed by index."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from nepa_keras.data.label_matrix import check_matrix
from nepa_keras.data.labels import class_numbers, empty_classes
from nepa_keras.data.network import network_files, scheme


class ImageSource:
    """Base class of sources: images read one at a time by index, in any order, from several threads.

    Subclasses implement `__len__`, `read` and `name`.

    Args:
        labels: (B,) class numbers, -1 for none, or names of classes; or (B, C) zeros and ones, 1 for each
            class that an image shows (multi-label); None without labels.
        class_names: name of each class, or None.

    Attributes:
        labels: int32 (B,), or uint8 (B, C); None without labels.
        class_names: name of each class, or None.
        notes: sentences for the user: what was left out, and what looks wrong in the data.

    Raises:
        ValueError: see `class_numbers` and `check_matrix`.

    Example:
        >>> class Noise(data.ImageSource):
        ...     def __len__(self): return 100
        ...     def name(self, index): return f"noise {index}"
        ...     def read(self, index):
        ...         return np.random.default_rng(index).integers(0, 256, (28, 28, 1), "uint8")
        >>> batches = data.AugmentedBatches(Noise(), 4, 28, channels=1)
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
        """True if `labels` are (B, C) zeros and ones, several per image."""
        return self.labels is not None and self.labels.ndim == 2

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> bytes | np.ndarray:
        """Encoded image, or its pixels (height, width, channels).

        Raises:
            ImageError: the image cannot be read.
            NetworkError: its server does not answer.
        """
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Human-readable location of an image; over the network it starts with the address of the file."""
        raise NotImplementedError

    def mark(self, index: int) -> object:
        """Value that changes if the image is replaced by another one, known without reading it; or None."""
        return None


class ArraySource(ImageSource):
    """Images uint8 (B, height, width, channels) in memory, or in a memory-mapped file.

    Args:
        images: the array.
        labels, class_names: see `ImageSource`.

    Raises:
        ValueError: labels are not as many as images, or see `class_numbers`.

    Example:
        >>> source = data.ArraySource(arrays.test_images, arrays.test_labels, arrays.class_names)
        >>> len(source), source.read(0).shape, source.name(0)
        (32, (28, 28, 1), 'image 0')
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


def size_of(path: str | Path) -> object:
    """Size of a file in bytes, over the network with its tag; None for a missing file."""
    if scheme(str(path)):
        return tuple(network_files().state(str(path)))
    try:
        return os.path.getsize(path)
    except OSError:
        return None
