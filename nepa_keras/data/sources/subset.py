"""Some of the images of a source."""

import numpy as np
from numpy.typing import ArrayLike

from nepa_keras.data.sources.base import ImageSource


class SubsetSource(ImageSource):
    """The images of a source at some indices, in that order.

    Args:
        source: an `ImageSource`.
        indices: (N,) numbers of its images.
    """

    def __init__(self, source: ImageSource, indices: ArrayLike):
        self.indices = np.asarray(indices)
        labels = None if source.labels is None else source.labels[self.indices]
        super().__init__(labels, source.class_names)
        self.source, self.notes = source, source.notes
        chunks = getattr(source, "chunks", None)
        if chunks is not None and (np.diff(self.indices) > 0).all():
            # What is read as a whole there still is here; pieces without an image fall out.
            self.chunks = np.unique(np.searchsorted(self.indices, chunks))

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes | np.ndarray:
        return self.source.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def mark(self, index: int) -> object:
        return self.source.mark(int(self.indices[index]))


def held_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of a training and a validation part, the latter with the share of each class.

    Args:
        labels: (N,) class numbers; images with a negative one, which have none, are in neither part.
        share: of the validation part, in (0, 1); at least one image of each class goes to either part.

    Raises:
        ValueError: a class with a single image, or another share.
    """
    if not 0 < share < 1:
        raise ValueError(f"The share that is held out must be between 0 and 1, got {share}.")
    labelled = np.flatnonzero(labels >= 0)
    generator, chosen = np.random.default_rng(seed), []
    for label in np.unique(labels[labelled]):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise ValueError(
                f"Class {label} has a single image, of which none can be held out; name a data set for "
                "validation."
            )
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        chosen.append(generator.choice(rows, count, replace=False))
    validation = np.sort(np.concatenate(chosen))
    return np.setdiff1d(labelled, validation), validation
