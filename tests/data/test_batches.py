"""Batches addressed by position: each image once an epoch, the same stream from any start."""

import itertools

import numpy as np
import pytest

from nepa_keras import data


def source(count: int = 50) -> np.ndarray:
    """Images whose every pixel is their own number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1))


def stream(batches, count: int) -> list:
    return list(itertools.islice(batches.endless(), count))


def test_every_image_comes_once_an_epoch_in_another_order():
    batches = data.AugmentedBatches(source(), 10, 4, seed=3, labels=np.arange(50), augment=False)
    assert len(batches) == 5
    epochs = []
    for _ in range(2):
        images, labels = zip(*(batches[i] for i in range(5)), strict=True)
        images, labels = np.concatenate(images), np.concatenate(labels)
        np.testing.assert_allclose((images[:, 0, 0, 0] + 1) * 127.5, labels, atol=1e-4)
        np.testing.assert_array_equal(np.sort(labels), np.arange(50))
        epochs.append(labels)
        batches.on_epoch_end()
    assert (epochs[0] != epochs[1]).any() and (epochs[0] != np.arange(50)).any()


def test_an_incomplete_batch_is_dropped():
    batches = data.AugmentedBatches(source(), 16, 4)
    assert len(batches) == 3
    assert all(len(images) == 16 for (images,) in stream(batches, 7))
    with pytest.raises(IndexError):
        batches[3]


@pytest.mark.parametrize("start", [1, 4, 5, 13])
def test_a_stream_begins_at_any_step(start):
    options = {"batch_size": 10, "image_size": 4, "seed": 5, "labels": np.arange(50)}
    whole = stream(data.AugmentedBatches(source(), **options), start + 7)
    rest = stream(data.AugmentedBatches(source(), start_step=start, **options), 7)
    for (a, x), (b, y) in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)


def test_the_seed_fixes_everything():
    first, second, other = (
        np.stack([images for (images,) in stream(data.AugmentedBatches(source(), 10, 4, s), 6)])
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_what_comes_out_fits_the_model():
    (images,) = next(data.AugmentedBatches(source(), 8, (6, 10)).endless())
    assert images.shape == (8, 6, 10, 1) and images.dtype == np.float32
    assert images.flags.c_contiguous and abs(images).max() <= 1.0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="batch of 51 .* 50 images"):
        data.AugmentedBatches(source(), 51, 4)
    with pytest.raises(ValueError, match="3 labels for 50 images"):
        data.AugmentedBatches(source(), 10, 4, labels=np.arange(3))
