"""Batches of images and masks for `NepaImageSegmenter.fit`."""

from collections.abc import Iterator

import numpy as np

from nepa_keras.data.batches import AugmentedBatches
from nepa_keras.data.segmentation.pairs import PairSource
from nepa_keras.data.segmentation.transforms import SegmentationTransform


class SegmentationBatches(AugmentedBatches):
    """`AugmentedBatches` of images with masks; order, resuming, threads and bad images are handled as there.

    Args:
        source: a `PairSource`.
        batch_size, image_size, seed, **options: see `AugmentedBatches`.
        transform: default `SegmentationTransform()`, the recipe for ADE20K.

    Yields:
        float32 images (batch_size, *image_size, channels) in [-1, 1], and uint8 labels
        (batch_size, *image_size).

    Example:
        >>> batches = segmentation.SegmentationBatches(segmentation.Scenes(count=8), 4, 28)
        >>> images, labels = batches[0]
        >>> images.shape, labels.shape
        ((4, 28, 28, 1), (4, 28, 28))
    """

    def __init__(
        self,
        source: PairSource,
        batch_size: int,
        image_size: int | tuple[int, int],
        seed: int = 1337,
        transform: SegmentationTransform | None = None,
        **options,
    ):
        super().__init__(
            source,
            batch_size,
            image_size,
            seed,
            transform=transform or SegmentationTransform(),
            channels=source.channels + 1,
            **options,
        )

    def _finish(self, images, indices, place):
        return images[..., :-1], images[..., -1].astype(np.uint8)

    def endless(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for (batch,) in super().endless():
            yield batch
