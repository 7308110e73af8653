"""KerasCV's augmentations instead of the recipe's own, in `tf.data`, on any backend.

For comparison with results that were made with KerasCV. Its operations and its magnitudes differ from the
recipe's, and its random numbers form one sequence: seed and first step determine the stream, but a resumed
run sees other augmentations than an uninterrupted one.
"""

import atexit
import time
import weakref
from collections.abc import Generator

import numpy as np

from nepa_keras.data.batches import AugmentedBatches
from nepa_keras.data.transforms.finetuning import RandomErasing
from nepa_keras.data.transforms.mixing import MixupCutmix
from nepa_keras.data.transforms.rand_augment import LEVELS, RandAugment
from nepa_keras.packages import required_for


def keras_cv_batches(
    batches: AugmentedBatches,
    mix: MixupCutmix,
    rand_augment: RandAugment | None = RandAugment(),  # noqa: B008, it is never changed
    erasing: RandomErasing | None = RandomErasing(),  # noqa: B008
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Endless (images, targets): KerasCV's RandAugment and MixUp, Keras' RandomErasing and CutMix.

    Args:
        batches: labelled, not mixed, and only cropped, by `RandomResizedCrop(interpolation="bicubic")`.
        mix: number of classes, alphas and label smoothing. The mixing share is drawn for each image; if both
            mixup and CutMix are on, one of them is drawn for each batch.
        rand_augment: number of operations, magnitude and std (of 10), and probability; None for none.
        erasing: probability and area; the noise is clipped to [-1, 1]. None for none.

    Yields:
        float32 images (batch_size, height, width, channels) in [-1, 1] and targets (batch_size, C).

    Raises:
        ImportError: KerasCV or TensorFlow is missing.
        ValueError: images have other than 1 or 3 channels or no labels, batches are mixed already, mixup and
            CutMix are both off, or the switch probability is not 0.5.
        BadImagesError: see `AugmentedBatches`.
    """
    if batches.labels is None or batches.mix is not None:
        raise ValueError("keras_cv_batches needs batches with labels that are not mixed yet.")
    if batches.labels.ndim > 1:
        raise ValueError(
            "KerasCV's mixing is for one class an image; for several use AugmentedBatches(mix=MixupCutmix())."
        )
    if batches.channels not in (1, 3):
        raise ValueError(
            f"KerasCV is for colour and grey images, not for {batches.channels} channels."
        )
    if mix.mixup == mix.cutmix == 0:
        raise ValueError("keras_cv_batches needs mixup, CutMix or both.")
    if min(mix.mixup, mix.cutmix) > 0 and mix.switch_probability != 0.5:
        raise ValueError(f"KerasCV switches with 0.5, not with {mix.switch_probability}.")
    with required_for("KerasCV's augmentation", "'nepa_keras[keras_cv]'"):
        import keras_cv  # noqa: F401, needs TensorFlow
    stream = _stream(batches, mix, rand_augment, erasing)
    atexit.register(_close, weakref.ref(stream))
    return stream


def _close(stream: weakref.ref):
    """Close a stream at exit: Python cannot end while a TensorFlow thread waits for images."""
    if (open_still := stream()) is not None:
        open_still.close()


def _stream(batches, mix, rand_augment, erasing):
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # leave them to the other backend
    first_step = batches.epoch * batches.steps_per_epoch + batches.offset
    seed = int(np.random.SeedSequence([batches.seed, first_step]).generate_state(1)[0] >> 1) or 1
    by_image, by_batch = _layers(mix, rand_augment, erasing, seed)

    def augment(layers):
        def mapped(images, targets):
            tf.compat.v1.set_random_seed(seed)  # inside the map: some KerasCV layers take no seed
            inputs = {"images": images, "labels": targets}
            for layer in layers:
                inputs = layer(inputs, training=True)
            return inputs["images"], inputs["labels"]

        return mapped

    def smoothed():
        for images, labels in batches.endless():
            if batches.channels == 1:  # KerasCV needs three channels; equal ones stay equal
                images = np.repeat(images, 3, axis=-1)
            yield images, mix.smooth(labels)

    def finished(images, targets):
        return tf.clip_by_value(images, -1, 1)[..., : batches.channels], targets

    size = batches.batch_size
    signature = (
        tf.TensorSpec((size, *batches.image_size, 3), "float32"),
        tf.TensorSpec((size, mix.num_classes), "float32"),
    )
    dataset = tf.data.Dataset.from_generator(smoothed, output_signature=signature)
    # Image by image: on a batch these layers run several images at once, in an order that is not fixed, and
    # so is the assignment of random numbers.
    dataset = dataset.unbatch().map(augment(by_image)).batch(size, drop_remainder=True)
    stream = dataset.map(augment(by_batch)).map(finished).prefetch(1).as_numpy_iterator()
    waited = 0.0
    while True:
        started = time.perf_counter()
        try:
            batch = next(stream)
        except tf.errors.OpError:
            if batches.failure is None:
                raise
            raise batches.failure from None
        waited += time.perf_counter() - started
        batches.seconds_waited = waited  # includes the time for KerasCV, not only for the images
        yield batch


def _layers(mix, rand_augment, erasing, seed: int) -> tuple[list, list]:
    """Layers that augment one image, and layers that mix a batch."""
    import keras
    import keras_cv

    by_image = []
    if rand_augment is not None:
        by_image.append(
            keras_cv.layers.RandAugment(
                value_range=(-1, 1),
                augmentations_per_image=rand_augment.num_ops,
                magnitude=rand_augment.magnitude / LEVELS,
                magnitude_stddev=rand_augment.std / LEVELS,
                rate=rand_augment.probability,
                seed=seed,
            )
        )
    by_batch = []
    if erasing is not None:
        probability = (erasing.probability, erasing.probability)
        by_batch.append(
            keras.layers.RandomErasing(probability, erasing.area, value_range=(-1, 1), seed=seed)
        )
    ways = []
    if mix.mixup:
        ways.append(keras_cv.layers.MixUp(mix.mixup, seed=seed))
    if mix.cutmix:
        # Not KerasCV's CutMix: its targets also count the part of the box that lies outside the image.
        ways.append(keras.layers.CutMix((mix.cutmix, mix.cutmix), seed=seed))
    if len(ways) == 2:
        ways = [keras_cv.layers.RandomChoice(ways, batchwise=True, seed=seed)]
    return by_image, by_batch + ways
