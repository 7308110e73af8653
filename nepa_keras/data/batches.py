"""Augmented batches whose content is a function of their position."""

import keras
import numpy as np

from nepa_keras.data.augment import normalize, random_resized_crops


class AugmentedBatches(keras.utils.PyDataset):
    """Shuffled, augmented batches of images in memory; the same on every backend.

    The order of an epoch is a function of (seed, epoch), the augmentation of an image one of
    (seed, epoch, index), so a run can begin at any step. The last incomplete batch is dropped.

    Args:
        images: uint8 (N, height, width, channels).
        batch_size: images per batch.
        image_size: of the images that come out, one side or (height, width).
        seed: of order and augmentation.
        labels: (N,), to be yielded beside the images.
        augment: random resized crop and flip; otherwise images are only resized.
        start_step: number of batches that were already used.

    Yields:
        float32 images (batch_size, *image_size, channels) in [-1, 1], or
        (images, labels).

    Raises:
        ValueError: fewer images than a batch, or labels of another number.
    """

    def __init__(
        self,
        images: np.ndarray,
        batch_size: int,
        image_size: int | tuple[int, int],
        seed: int = 1337,
        labels: np.ndarray | None = None,
        augment: bool = True,
        start_step: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 < batch_size <= len(images):
            raise ValueError(
                f"A batch of {batch_size} cannot be made from {len(images)} images; choose a "
                "batch_size between 1 and that number."
            )
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"There are {len(labels)} labels for {len(images)} images.")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.image_size = image_size
        self.seed = seed
        self.augment = augment
        self.epoch, self.offset = divmod(start_step, len(images) // batch_size)
        self._order()

    def _order(self):
        generator = np.random.default_rng([self.seed, self.epoch])
        self.order = generator.permutation(len(self.images))

    def __len__(self):
        return len(self.images) // self.batch_size - self.offset

    def __getitem__(self, position):
        if not 0 <= position < len(self):
            raise IndexError(f"Batch {position} of an epoch with {len(self)}.")
        start = (position + self.offset) * self.batch_size
        indices = self.order[start : start + self.batch_size]
        images = self.images[indices]
        if self.augment:
            images = random_resized_crops(
                images, self.image_size, seed=self.seed, epoch=self.epoch, indices=indices
            )
        else:
            images = normalize(images, self.image_size)
        return images if self.labels is None else (images, self.labels[indices])

    def on_epoch_end(self):
        self.epoch, self.offset = self.epoch + 1, 0
        self._order()

    def endless(self):
        """One epoch after the other, as tuples, for `fit(..., steps_per_epoch=...)`."""
        while True:
            for position in range(len(self)):
                yield (self[position],) if self.labels is None else self[position]
            self.on_epoch_end()
