"""`benchmark.py --suite=transforms`: time per image of our augmentations and of KerasCV's and Keras'.

KerasCV's and Keras' layers run in `tf.data`. All run on one core, over a batch of crops of two photographs;
the alternatives of a transform work in turn. Times are CPU times of the process, so that other processes
matter less.
"""

import os
import statistics
import sys
import time

import numpy as np
from time_left import counter

BATCH, SIZE, ORIGINAL = 32, 224, (375, 500)


def photographs() -> np.ndarray:
    """Crops of photographs, (BATCH, 375, 500, 3) uint8."""
    from sklearn.datasets import load_sample_images

    whole = load_sample_images().images
    draw = np.random.default_rng(0).integers
    parts = []
    for i in range(BATCH):
        image = whole[i % len(whole)]
        top, left = (draw(0, a - b + 1) for a, b in zip(image.shape, ORIGINAL, strict=False))
        parts.append(image[top : top + ORIGINAL[0], left : left + ORIGINAL[1]])
    return np.stack(parts)


def ours(images, small, labels) -> dict:
    from nepa_keras import data
    from nepa_keras.data.order import random_numbers

    def each(transform, pixels):
        rows = random_numbers(0, 0, np.arange(BATCH), transform.num_random).tolist()
        out = np.empty((BATCH, SIZE, SIZE, 3), "float32")

        def run():
            for image, row, place in zip(pixels, rows, out, strict=True):
                transform(image, row, place)

        return run

    def policy(augment):
        rows = random_numbers(0, 0, np.arange(BATCH), augment.num_random).tolist()
        return lambda: [augment(image, row) for image, row in zip(small, rows, strict=True)]

    def erase(erasing):
        rows = random_numbers(0, 0, np.arange(BATCH), erasing.num_random).tolist()
        floats = small.astype("float32")
        return lambda: [erasing(image, row) for image, row in zip(floats, rows, strict=True)]

    def mixed(**settings):
        floats, mix = small.astype("float32"), data.MixupCutmix(10, **settings)
        return lambda: mix(floats, labels, 0)

    return {
        ("crop, bilinear", "ours"): each(data.RandomResizedCrop(), images),
        ("crop, bicubic", "ours"): each(data.RandomResizedCrop(interpolation="bicubic"), images),
        ("center crop", "ours"): each(data.CenterCrop(256), images),
        ("RandAugment", "ours"): policy(data.RandAugment()),
        ("erasing", "ours"): erase(data.RandomErasing()),
        ("mixup", "ours"): mixed(cutmix=0.0),
        ("CutMix", "ours"): mixed(mixup=0.0),
        ("the whole transform", "ours"): each(data.FinetuningTransform(), images),
    }


def in_tf_data(images, small, labels) -> dict:
    """Functions that apply a layer to a batch in `tf.data`, on one thread; {} without TensorFlow."""
    try:
        import keras
        import tensorflow as tf
    except ImportError:
        return {}
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    floats, targets = small.astype("float32"), np.eye(10, dtype="float32")[labels]
    layers = {
        ("crop, bilinear", "TensorFlow"): lambda d: tf.image.resize(
            d["images"][:, 40:315, 60:410], (SIZE, SIZE), antialias=True
        ),
        ("RandAugment", "Keras"): keras.layers.RandAugment(num_ops=2, factor=0.9),
        ("erasing", "Keras"): keras.layers.RandomErasing((0.25, 0.25)),
        ("mixup", "Keras"): keras.layers.MixUp(0.8),
        ("CutMix", "Keras"): keras.layers.CutMix((1.0, 1.0)),
    }
    try:
        import keras_cv
    except ImportError:
        pass
    else:
        layers |= {
            ("RandAugment", "KerasCV"): keras_cv.layers.RandAugment(
                (0, 255), 2, magnitude=0.9, magnitude_stddev=0.05, rate=0.5
            ),
            ("mixup", "KerasCV"): keras_cv.layers.MixUp(0.8),
            ("CutMix", "KerasCV"): keras_cv.layers.CutMix(1.0),
        }
    options = tf.data.Options()
    options.autotune.enabled = False  # and no prefetching, which would run in another's turn
    options.experimental_optimization.inject_prefetch = False
    ways = {}
    for key, layer in layers.items():
        pixels = images if key[0].startswith("crop") else floats
        dataset = tf.data.Dataset.from_tensors({"images": pixels, "labels": targets}).repeat()
        stream = iter(dataset.map(layer).with_options(options))
        ways[key] = lambda stream=stream: next(stream)
    return ways


def transforms_suite(steps: int, repeats: int) -> None:
    """Print a table of medians over `repeats` turns of `steps` batches, after one turn that warms up."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    images, labels = photographs(), np.arange(BATCH) % 10
    small = images[:, :SIZE, :SIZE].copy()
    ways = ours(images, small, labels) | in_tf_data(images, small, labels)
    times = {key: [] for key in ways}
    count = counter((repeats + 1) * len(ways), "turn", sys.stderr)
    for _ in range(repeats + 1):
        for key, run in ways.items():
            started = time.process_time()
            for _ in range(steps):
                run()
            times[key].append((time.process_time() - started) / steps / BATCH * 1e3)
            count()
    print("transform             library       CPU ms per image (smallest to largest)")
    for key in sorted(ways, key=lambda key: [k[0] for k in ways].index(key[0])):
        counted = times[key][1:]
        print(
            f"{key[0]:22}{key[1]:12}{statistics.median(counted):8.3f} "
            f"({min(counted):.3f} to {max(counted):.3f})"
        )
