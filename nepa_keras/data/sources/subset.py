"""Subsets of a source, and the split into training and validation images."""

import numpy as np
from numpy.typing import ArrayLike

from nepa_keras.data.sources.base import ImageSource


class SubsetSource(ImageSource):
    """Images of a source at given indices, in that order.

    Args:
        source: an `ImageSource`.
        indices: (B,) numbers of its images.

    Example:
        >>> source = data.open_source("folder:pictures", with_labels=True)
        >>> subset = data.SubsetSource(source, [6, 1])
        >>> len(subset), subset.labels.tolist()
        (2, [1, 0])
    """

    def __init__(self, source: ImageSource, indices: ArrayLike):
        self.indices = np.asarray(indices)
        labels = None if source.labels is None else source.labels[self.indices]
        super().__init__(labels, source.class_names)
        self.source, self.notes = source, source.notes
        chunks = getattr(source, "chunks", None)
        if chunks is not None and (np.diff(self.indices) > 0).all():
            # Chunks that are read as a whole, without those that have no image here.
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
    """Sorted indices of a training and a validation part, the latter with a fraction of each class.

    Args:
        labels: (B,) class numbers; images without a label (negative) are in neither part. Or (B, C) zeros
            and ones of several classes per image.
        share: fraction of the validation part, in (0, 1). Each part gets at least one image of each class,
            except that for (B, C) labels the only image of a class stays in the training part.
        seed: seed of the choice.

    Raises:
        ValueError: a class has a single image (for (B, C) labels: every class has), or `share` is not in
            (0, 1).

    Example:
        >>> source = data.open_source("folder:pictures", with_labels=True)
        >>> training, validation = data.held_out(source.labels, share=0.25, seed=0)
        >>> len(training), len(validation)
        (6, 2)
    """
    if not 0 < share < 1:
        raise ValueError(f"The share that is held out must be between 0 and 1, got {share}.")
    if labels.ndim == 2:
        return _held_out_of_several(labels, share, np.random.default_rng(seed))
    labelled = np.flatnonzero(labels >= 0)
    generator, chosen = np.random.default_rng(seed), []
    for label in np.unique(labels[labelled]):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise ValueError(
                f"Class {label} has a single image, so none can be held out; name a data set for "
                "validation."
            )
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        chosen.append(generator.choice(rows, count, replace=False))
    validation = np.sort(np.concatenate(chosen))
    return np.setdiff1d(labelled, validation), validation


def _held_out_of_several(
    labels: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`held_out` for labels (B, C): deals the images of each class in turn, starting with the rarest class.

    Each image is dealt with its rarest class, so that common classes decide as little as possible (iterative
    stratification, Sechidis et al. 2011, without recounting).
    """
    counts = labels.sum(axis=0, dtype=np.int64)
    rarest = np.argsort(counts, kind="stable")
    part = np.full(len(labels), -1)  # -1 not dealt yet, 0 training, 1 validation
    for rows in (*(labels[:, k] > 0 for k in rarest), np.ones(len(labels), bool)):
        left = generator.permutation(np.flatnonzero(rows & (part < 0)))
        wanted = round(share * rows.sum()) - int((part[rows] == 1).sum())
        if not (part[rows] == 1).any() and rows.sum() > 1:
            wanted = max(wanted, 1)
        wanted = min(max(wanted, 0), len(left) - int(not (part[rows] == 0).any()))
        part[left] = 0
        part[left[: max(wanted, 0)]] = 1
    train, validation = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    if not len(validation):
        raise ValueError(
            f"Of {len(labels)} images with a class of their own each none can be held out; name a data set "
            "for validation."
        )
    return train, validation
