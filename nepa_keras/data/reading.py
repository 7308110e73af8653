"""Reading of images by threads, shared by the batches for training and for evaluation."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from nepa_keras.data.bad_images import BadImages
from nepa_keras.data.decode import ImageError, decode_image
from nepa_keras.data.network import scheme
from nepa_keras.data.pixels import ValueRange, checked_range
from nepa_keras.data.sources.base import ArraySource, ImageSource
from nepa_keras.data.transforms.crops import ImageTransform
from nepa_keras.data.transforms.resample import sides

Item = TypeVar("Item")
Made = TypeVar("Made")
_OVER_NETWORK = 32  # threads for sources over the network, at least


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_for(source: ImageSource) -> int:
    """Number of threads that read and decode: one per core, more for sources over the network."""
    over_network = len(source) > 0 and scheme(source.name(0))
    return max(available_cores(), _OVER_NETWORK if over_network else 1)


def made_ahead(
    begin: Callable[[Item], Callable[[], Made]], items: Iterable[Item], count: int
) -> Iterator[Made]:
    """Results of `begin(item)()` in order, with `count` of them in preparation while one is used.

    Args:
        begin: function that starts the work on an item and returns a function that waits for it.
        items: what `begin` takes.
        count: number of results in preparation.
    """
    items = iter(items)
    making = deque(begin(item) for item in itertools.islice(items, count))
    while making:
        made = making.popleft()()
        making.extend(begin(item) for item in itertools.islice(items, 1))
        yield made


class ImageReader:
    """Base class of batches of images.

    Args:
        images: an `ImageSource`, or uint8 (B, height, width, channels).
        image_size: size of the output images, one side or (height, width).
        transform: transform of each image.
        channels: channels of the output images; default those of the array, or 3.
        bad_images: record of images that cannot be read; default a budget of 0.1 %.
        threads: threads that read and decode; default one per core, and at least 32 over the network.
        value_range: (lowest, highest) value that become black and white, for images of more than 8 bits; see
            `decode_image`.

    Raises:
        ValueError: an array is not uint8 (B, height, width, channels), or `value_range` is invalid.
    """

    def __init__(
        self,
        images: ImageSource | np.ndarray,
        image_size: int | tuple[int, int],
        transform: ImageTransform,
        channels: int | None = None,
        bad_images: BadImages | None = None,
        threads: int | None = None,
        value_range: ValueRange | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.source = images if isinstance(images, ImageSource) else ArraySource(images)
        held = self.source.images if isinstance(self.source, ArraySource) else None
        if held is not None and (held.dtype != np.uint8 or held.ndim != 4):
            raise ValueError(
                f"Images in memory must be uint8 (B, height, width, channels), got {held.dtype} of shape "
                f"{held.shape}."
            )
        self.image_size = sides(image_size)
        self.transform = transform
        self.channels = channels or (3 if held is None else held.shape[-1])
        self.bad_images = bad_images or BadImages(len(self.source))
        self.threads = threads or threads_for(self.source)
        self.value_range = checked_range(value_range)

    def _new_batch(self, size: int, dtype: str = "float32") -> np.ndarray:
        """Uninitialised array for a batch of this size."""
        return np.empty((size, *self.image_size, self.channels), dtype)

    def _pixels(self, index: int) -> np.ndarray | None:
        """Decoded image; None for a bad one, which is recorded.

        Raises:
            BadImagesError: more images are bad than the budget allows.
        """
        try:
            return decode_image(self.source.read(index), self.channels, self.value_range)
        except ImageError as error:
            self.bad_images.add(index, self.source.name(index), str(error))
            return None
