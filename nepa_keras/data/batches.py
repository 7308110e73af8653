"""Augmented batches whose content depends only on seed and position, so that a run can resume anywhere."""

import copy
import functools
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from nepa_keras.data.bad_images import BadImages
from nepa_keras.data.decode import ImageError
from nepa_keras.data.order import epoch_order, random_numbers
from nepa_keras.data.pixels import ValueRange
from nepa_keras.data.reading import ImageReader, made_ahead
from nepa_keras.data.sources.base import ArraySource, ImageSource
from nepa_keras.data.transforms import ImageTransform, RandomResizedCrop
from nepa_keras.data.transforms.mixing import MixupCutmix
from nepa_keras.files import printable

_AHEAD = 3  # batches prepared while one is used
_TOGETHER = 8  # images that a thread transforms as one task
_REPLACEMENTS = 100  # attempts to replace a bad image by a good one


class AugmentedBatches(ImageReader, keras.utils.PyDataset):
    """Shuffled, augmented batches of images; identical on every backend.

    The order of an epoch depends only on (seed, epoch), the augmentation of an image only on (seed, epoch,
    index), so a run can start at any step. Threads decode and transform images; `endless` prepares a few
    batches ahead. Arrays of images of one size are cropped and resized as a whole batch.

    Args:
        images: an `ImageSource`, or uint8 (B, height, width, channels).
        batch_size: images per batch of this process.
        image_size: size of the output images, one side or (height, width).
        seed: seed of order and augmentation.
        labels: (B,), returned along with the images.
        transform: transform of each image; default `RandomResizedCrop()`, as in the released scripts for
            pretraining (the paper does not flip).
        mix: mixing of the images of a batch with each other, which turns labels into soft targets. Partners
            come from the same process, so with `mix` the stream depends on the number of processes.
        start_step: number of batches already used.
        channels: channels of the output images; default those of the array, or 3.
        shard: (number of this process, number of processes); each process returns its part of every global
            batch.
        bad_images: record of images that cannot be read; default a budget of 0.1 %. A bad image is replaced
            by another one, which depends only on (seed, epoch, index).
        threads: threads that read and decode; default one per core.
        value_range: (lowest, highest) value that become black and white, for images of more than 8 bits; see
            `decode_image`.
        dtype: "float32", or "uint8" for pixels that the model scales on its device: a quarter of the bytes
            for the same numbers. Values that are not whole pixels (after `mix`, after random erasing, or
            crops of arrays, which are not rounded) stay float32; the attribute `dtype` says which it is.

    Yields:
        images (batch_size, *image_size, channels) of `dtype`, float32 ones in [-1, 1]; or (images, labels);
        or with `mix` (images, float32 targets (batch_size, C)).

    Raises:
        ValueError: there are fewer images than a global batch, labels are not as many as images, or `mix` is
            given without labels.
        BadImagesError: while iterating, more images are bad than the budget allows.

    Example:
        >>> source = data.open_source("folder:pictures", with_labels=True)
        >>> batches = data.AugmentedBatches(source, 4, 28, channels=1, labels=source.labels)
        >>> images, labels = batches[0]
        >>> images.shape, labels.shape
        ((4, 28, 28, 1), (4,))
    """

    def __init__(
        self,
        images: ImageSource | np.ndarray,
        batch_size: int,
        image_size: int | tuple[int, int],
        seed: int = 1337,
        labels: np.ndarray | None = None,
        transform: ImageTransform | None = None,
        mix: MixupCutmix | None = None,
        start_step: int = 0,
        channels: int | None = None,
        shard: tuple[int, int] = (0, 1),
        bad_images: BadImages | None = None,
        threads: int | None = None,
        value_range: ValueRange | None = None,
        dtype: str = "float32",
        **kwargs,
    ):
        if dtype not in ("float32", "uint8"):
            raise ValueError(f"dtype must be 'float32' or 'uint8', got {dtype!r}.")
        transform = transform or RandomResizedCrop()
        super().__init__(
            images, image_size, transform, channels, bad_images, threads, value_range, **kwargs
        )
        number, processes = shard
        if not 0 <= number < processes:
            raise ValueError(
                f"shard is (number, processes) with 0 <= number < processes, got {shard}."
            )
        if not 0 < batch_size * processes <= len(self.source):
            raise ValueError(
                f"A batch of {batch_size * processes} cannot be made from {len(self.source)} images; "
                "choose a batch_size between 1 and that number."
            )
        if labels is not None and len(labels) != len(self.source):
            raise ValueError(f"There are {len(labels)} labels for {len(self.source)} images.")
        if mix is not None and labels is None:
            raise ValueError("Mixing needs labels; this data set has none.")
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.mix = mix
        pixels = transform.whole_pixels and mix is None and self._arrays is None
        self.dtype = dtype if pixels else "float32"
        self.shard = shard
        # The error that ended `endless`: some backends hide it from the caller of `fit`.
        self.failure: ValueError | None = None
        self.seconds_waited = 0.0  # time that `endless` waited for images
        self.steps_per_epoch = len(self.source) // (batch_size * processes)
        self.seek(start_step)
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.steps_per_epoch - self.offset

    def __getitem__(self, position: int) -> Any:
        if not 0 <= position < len(self):
            raise IndexError(f"Batch {position} of an epoch with {len(self)}.")
        return self._begin(self.epoch, position + self.offset)()

    def seek(self, step: int) -> "AugmentedBatches":
        """Continue after this number of batches; returns this object."""
        self.epoch, self.offset = divmod(step, self.steps_per_epoch)
        return self

    def on_epoch_end(self) -> None:
        self.epoch, self.offset = self.epoch + 1, 0

    def endless(self) -> Iterator[tuple]:
        """Batches of one epoch after another, as tuples, for `fit(..., steps_per_epoch=...)`."""
        first = self.epoch * self.steps_per_epoch + self.offset
        positions = (divmod(step, self.steps_per_epoch) for step in itertools.count(first))
        stream = made_ahead(lambda position: self._begin(*position), positions, _AHEAD)
        while True:
            started = time.perf_counter()
            try:
                batch = next(stream)
            except ValueError as error:
                self.failure = error
                raise
            self.seconds_waited += time.perf_counter() - started
            yield (batch,) if self.labels is None else batch

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, "nepa_keras-images")

    def indices(self, epoch: int, position: int) -> np.ndarray:
        """Indices (batch_size,) of the images of this process's batch, before bad images are replaced."""
        number, processes = self.shard
        start = (position * processes + number) * self.batch_size
        return self._order(epoch)[start : start + self.batch_size]

    def describe(self, step: int) -> dict:
        """Description of the global batch at a step, for an error report.

        Returns:
            A dictionary that JSON can hold: epoch and position in it, seed, indices and names of the images
            before bad ones are replaced, and SHA-256 of the pixels.
        """
        whole = copy.copy(self)
        whole.shard, whole.batch_size = (0, 1), self.batch_size * self.shard[1]
        epoch, position = divmod(step, self.steps_per_epoch)
        indices = whole.indices(epoch, position)
        whole.dtype = "float32"
        images = keras.tree.flatten(whole._begin(epoch, position)())[0]
        return {
            "epoch": epoch,
            "position": position,
            "seed": self.seed,
            "indices": indices.tolist(),
            "names": [printable(self.source.name(index)) for index in indices.tolist()],
            "sha256": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
        }

    @property
    def _arrays(self) -> np.ndarray | None:
        """Images of an array source that are transformed as a whole batch, without rounding; else None."""
        if isinstance(self.source, ArraySource) and self.transform.together:
            return self.source.images
        return None

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) <= 1}
                chunks = getattr(self.source, "chunks", None)
                self._orders[epoch] = epoch_order(self.seed, epoch, len(self.source), chunks)
            return self._orders[epoch]

    def _begin(self, epoch: int, position: int) -> Callable[[], Any]:
        """Start to prepare a batch; returns a function that waits for it."""
        indices = self.indices(epoch, position)
        if (arrays := self._arrays) is not None:
            return lambda: self._finish(
                self._transform_arrays(arrays, epoch, indices), indices, (epoch, position)
            )
        images = self._new_batch(len(indices), self.dtype)
        draws = random_numbers(self.seed, epoch, indices, self.transform.num_random).tolist()

        def some(start):
            rows = range(start, min(start + _TOGETHER, len(indices)))
            return [self._make(images[i], epoch, int(indices[i]), draws[i]) for i in rows]

        futures = [self._pool.submit(some, i) for i in range(0, len(indices), _TOGETHER)]

        def rest():  # queued after the images of this batch, so all have started when it waits for them
            made = [index for future in futures for index in future.result()]
            return self._finish(images, made, (epoch, position))

        return self._pool.submit(rest).result

    def _finish(self, images, indices, place: tuple[int, int]):
        """Add labels or targets to the images of a batch."""
        if self.labels is None:
            return images
        labels = self.labels[np.asarray(indices)]
        if self.mix is None:
            return images, labels
        return self.mix(images, labels, [self.seed, *place, self.shard[0]])

    def _transform_arrays(self, arrays: np.ndarray, epoch: int, indices: np.ndarray) -> np.ndarray:
        return self.transform.of_arrays(
            arrays[indices], self.image_size, seed=self.seed, epoch=epoch, indices=indices
        )

    def _make(self, out: np.ndarray, epoch: int, index: int, draws: list[float]) -> int:
        """Write an image into `out`, or a replacement if it is bad; returns the index of the one written."""
        wanted = np.array([index])
        for attempt in range(1, _REPLACEMENTS + 1):
            pixels = self._pixels(index)
            if pixels is not None:
                self.transform(pixels, draws[: self.transform.num_random], out)
                return index
            count = self.transform.num_random + attempt
            (draws,) = random_numbers(self.seed, epoch, wanted, count).tolist()
            index = int(draws[-1] * len(self.source))
        raise ImageError(
            f"{_REPLACEMENTS} images in a row are bad, the last {printable(self.source.name(index))}"
        )
