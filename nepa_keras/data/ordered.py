"""Every image of a source once, in order: for evaluation."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nepa_keras.data.bad_images import BadImages
from nepa_keras.data.batches import available_cores
from nepa_keras.data.decode import ImageError, decode_image
from nepa_keras.data.sources.base import ArraySource, ImageSource
from nepa_keras.data.transforms import ImageTransform, Resize
from nepa_keras.data.transforms.resample import sides

_AHEAD = 2  # batches in the making while one is used


class OrderedBatches:
    """Batches of images that each come once, in order, with their indices.

    Args:
        images: an `ImageSource`, or uint8 (N, height, width, channels).
        batch_size: images per batch.
        image_size: of the images that come out, one side or (height, width).
        transform: of each image, one without random numbers; default `Resize()`.
        channels: of the images that come out; default that of the array, or 3.
        indices: of the images, if not all.
        bad_images: account of images that cannot be read, which are left out; default a budget of 0.1 %.
        threads: that read and decode; default one per core.

    Yields:
        float32 (n, *image_size, channels) in [-1, 1] and indices (n,); n is `batch_size`, or less of the
        last batch and where images are bad.

    Raises:
        ValueError: a transform with random numbers.
        BadImagesError: while iterating, more bad images than the budget.
    """

    def __init__(
        self,
        images: ImageSource | np.ndarray,
        batch_size: int,
        image_size: int | tuple[int, int],
        transform: ImageTransform | None = None,
        channels: int | None = None,
        indices: np.ndarray | None = None,
        bad_images: BadImages | None = None,
        threads: int | None = None,
    ):
        self.source = images if isinstance(images, ImageSource) else ArraySource(images)
        self.batch_size = batch_size
        self.image_size = sides(image_size)
        self.transform = transform or Resize()
        if self.transform.draws:
            raise ValueError(f"{type(self.transform).__name__} is random; evaluate without.")
        held = getattr(self.source, "images", None)
        self.channels = channels or (3 if held is None else held.shape[-1])
        self.indices = np.arange(len(self.source)) if indices is None else np.asarray(indices)
        self.bad_images = bad_images or BadImages(len(self.source))
        self.threads = threads or available_cores()

    def __len__(self):
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        starts = iter(range(0, len(self.indices), self.batch_size))
        pool = ThreadPoolExecutor(self.threads, "nepa_keras-evaluation")
        try:
            making = deque(self._begin(pool, start) for start in itertools.islice(starts, _AHEAD))
            while making:
                images, indices, futures = making.popleft()
                making.extend(self._begin(pool, start) for start in itertools.islice(starts, 1))
                good = [future.result() for future in futures]
                yield (images, indices) if all(good) else (images[good], indices[good])
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, pool, start: int):
        indices = self.indices[start : start + self.batch_size]
        images = np.empty((len(indices), *self.image_size, self.channels), "float32")
        futures = [pool.submit(self._make, images[i], int(n)) for i, n in enumerate(indices)]
        return images, indices, futures

    def _make(self, out: np.ndarray, index: int) -> bool:
        """Writes an image into `out`; returns whether it could be read."""
        try:
            self.transform(decode_image(self.source.read(index), self.channels), [], out)
        except ImageError as error:
            self.bad_images.add(index, self.source.name(index), str(error))
            return False
        return True
