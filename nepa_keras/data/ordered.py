"""Batches of all images of a source, in order, for evaluation."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from nepa_keras.data.bad_images import BadImages
from nepa_keras.data.pixels import ValueRange
from nepa_keras.data.reading import ImageReader, made_ahead
from nepa_keras.data.sources.base import ImageSource
from nepa_keras.data.transforms import ImageTransform, Resize

_AHEAD = 2  # batches prepared while one is used


class OrderedBatches(ImageReader):
    """Batches of images, each image once and in order, with their indices.

    Args:
        images: an `ImageSource`, or uint8 (B, height, width, channels).
        batch_size: images per batch.
        image_size: size of the output images, one side or (height, width).
        transform: transform of each image, without random numbers; default `Resize()`.
        channels: channels of the output images; default those of the array, or 3.
        indices: indices of the images to use; default all.
        bad_images: record of images that cannot be read, which are left out; default a budget of 0.1 %.
        threads: threads that read and decode; default one per core.
        value_range: (lowest, highest) value that become black and white, for images of more than 8 bits; see
            `decode_image`.

    Yields:
        float32 images (n, *image_size, channels) in [-1, 1] and indices (n,); n is `batch_size`, or less in
        the last batch and where images are bad.

    Raises:
        ValueError: the transform uses random numbers.
        BadImagesError: while iterating, more images are bad than the budget allows.

    Example:
        >>> source = data.open_source("folder:pictures")
        >>> batches = data.OrderedBatches(source, batch_size=5, image_size=28, channels=1)
        >>> [(images.shape, indices.tolist()) for images, indices in batches]
        [((5, 28, 28, 1), [0, 1, 2, 3, 4]), ((3, 28, 28, 1), [5, 6, 7])]
    """

    def __init__(
        self,
        images: ImageSource | np.ndarray,
        batch_size: int,
        image_size: int | tuple[int, int],
        transform: ImageTransform | None = None,
        channels: int | None = None,
        indices: ArrayLike | None = None,
        bad_images: BadImages | None = None,
        threads: int | None = None,
        value_range: ValueRange | None = None,
    ):
        super().__init__(
            images,
            image_size,
            transform or Resize(),
            channels,
            bad_images,
            threads,
            value_range,
        )
        if self.transform.num_random:
            raise ValueError(
                f"{type(self.transform).__name__} is random; evaluate with a transform that is not, such "
                "as Resize."
            )
        self.batch_size = batch_size
        self.indices = np.arange(len(self.source)) if indices is None else np.asarray(indices)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        pool = ThreadPoolExecutor(self.threads, "nepa_keras-evaluation")
        starts = range(0, len(self.indices), self.batch_size)
        try:
            yield from made_ahead(lambda start: self._begin(pool, start), starts, _AHEAD)
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, pool, start: int):
        indices = self.indices[start : start + self.batch_size]
        images = self._new_batch(len(indices))
        futures = [pool.submit(self._make, images[i], int(n)) for i, n in enumerate(indices)]

        def wait():
            good = [future.result() for future in futures]
            return (images, indices) if all(good) else (images[good], indices[good])

        return wait

    def _make(self, out: np.ndarray, index: int) -> bool:
        """Write an image into `out`; returns whether it could be read."""
        pixels = self._pixels(index)
        if pixels is not None:
            self.transform(pixels, [], out)
        return pixels is not None
