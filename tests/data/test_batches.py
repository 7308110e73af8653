"""Batches addressed by position: each image once an epoch, the same stream from any start."""

import itertools
import os

import keras
import numpy as np
import pytest
from PIL import Image

from nepa_keras import data
from nepa_keras.data.order import epoch_order


def source(count: int = 50) -> np.ndarray:
    """Images whose every pixel is their own number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1))


def stream(batches, count: int) -> list:
    return list(itertools.islice(batches.endless(), count))


def test_every_image_comes_once_an_epoch_in_another_order():
    batches = data.AugmentedBatches(
        source(), 10, 4, seed=3, labels=np.arange(50), transform=data.Resize()
    )
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


def test_batches_fit_the_model():
    (images,) = next(data.AugmentedBatches(source(), 8, (6, 10)).endless())
    assert images.shape == (8, 6, 10, 1) and images.dtype == np.float32
    assert images.flags.c_contiguous and abs(images).max() <= 1.0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"batch of 51 .* 50 images"):
        data.AugmentedBatches(source(), 51, 4)
    with pytest.raises(ValueError, match="3 labels for 50 images"):
        data.AugmentedBatches(source(), 10, 4, labels=np.arange(3))


class Numbered(data.ImageSource):
    """Images of their own number, some of which cannot be read; counts what was read."""

    def __init__(self, count: int, bad=()):
        super().__init__()
        self.count, self.bad, self.was_read = count, set(bad), []

    def __len__(self):
        return self.count

    def read(self, index):
        self.was_read.append(index)
        if index in self.bad:
            raise data.ImageError("cut off")
        return np.full((6, 5, 1), index, np.uint8)

    def name(self, index):
        return f"file {index}"


def numbers(images) -> np.ndarray:
    return np.round((images[:, 0, 0, 0] + 1) * 127.5).astype(int)


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_processes_share_an_epoch(processes):
    """Each index once but for less than a global batch, and the same stream for any number of them."""
    options = {"image_size": 4, "seed": 3, "channels": 1, "transform": data.Resize()}
    whole = data.AugmentedBatches(Numbered(200), 16, **options)
    parts = [
        data.AugmentedBatches(Numbered(200), 16 // processes, shard=(i, processes), **options)
        for i in range(processes)
    ]
    assert all(len(part) == len(whole) == 12 for part in parts)
    seen = []
    for position in range(12):
        together = np.concatenate([numbers(part[position]) for part in parts])
        np.testing.assert_array_equal(together, numbers(whole[position]))
        seen += list(together)
    assert len(set(seen)) == len(seen) == 192
    with pytest.raises(ValueError, match="shard is"):
        data.AugmentedBatches(Numbered(200), 16, shard=(2, 2), **options)


def test_no_image_is_read_before_the_first_step():
    images = Numbered(200)
    batches = data.AugmentedBatches(images, 10, 4, channels=1, start_step=19)
    (last,) = next(batches.endless())
    assert last.shape == (10, 4, 4, 1)
    assert len(images.was_read) <= 10 * 4  # this batch and those in the making


def test_threads_change_nothing():
    one, many = (
        stream(data.AugmentedBatches(Numbered(50), 10, 4, channels=1, threads=n), 12)
        for n in (1, 5)
    )
    np.testing.assert_array_equal(np.array(one), np.array(many))


def test_bad_images_are_replaced_and_named(tmp_path):
    """The same replacements each time, with labels; the file names each bad image once."""
    streams, record = [], tmp_path / "bad.txt"
    for run in range(2):
        batches = data.AugmentedBatches(
            Numbered(100, bad=(7, 50)),
            10,
            4,
            seed=1,
            channels=1,
            transform=data.Resize(),
            labels=np.arange(100),
            bad_images=data.BadImages(100, share=0.02, record=record),
            threads=1 + 3 * run,
        )
        streams.append(stream(batches, 30))
        assert sorted(record.read_text().splitlines()) == ["file 50: cut off", "file 7: cut off"]
        assert sorted(batches.bad_images.reasons) == [7, 50]
    for (images, labels), (again, _) in zip(*streams, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(numbers(images), labels)
        assert not set(labels) & {7, 50}
    epoch = np.concatenate([labels for _, labels in streams[0][:10]])
    assert len(set(epoch)) >= 96  # two were replaced by two that come again


@pytest.mark.once
def test_a_bad_image_has_one_line_whatever_its_name(tmp_path):
    """Once, also after the run goes on, and in UTF-8."""
    names = [os.fsdecode(b"caf\xe9.jpg"), "a\nb.jpg", "tab\there\u2028.jpg", "plain.jpg"]
    record = tmp_path / "bad.txt"
    for _ in range(2):
        account = data.BadImages(100, share=0.1, record=record)
        for index, name in enumerate(names):
            account.add(index, name, "cut off")
    assert record.read_bytes().decode().splitlines() == [
        r"caf\xe9.jpg: cut off",
        r"a\nb.jpg: cut off",
        r"tab\there\u2028.jpg: cut off",
        "plain.jpg: cut off",
    ]


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((20, 6, 5, 1), "float32"), "got float32"),
        (np.zeros((20, 6, 5, 1), np.uint16), "got uint16"),
        (np.zeros((20, 6, 5), np.uint8), r"of shape \(20, 6, 5\)"),
    ],
)
def test_other_arrays_than_images_of_bytes_are_refused(images, words):
    for batches in (data.AugmentedBatches, data.OrderedBatches):
        with pytest.raises(ValueError, match=rf"uint8 \(B, height, width, channels\), .*{words}"):
            batches(images, 4, 4)


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_more_bad_images_than_the_budget_stop(share):
    batches = data.AugmentedBatches(
        Numbered(100, bad=(7, 50)), 10, 4, channels=1, bad_images=data.BadImages(100, share)
    )
    words = "^file .*: cut off" if share == 0 else "2 images are bad, more than the 1 .*:\n  file"
    with pytest.raises(data.BadImagesError, match=words):
        stream(batches, 30)
    assert isinstance(batches.failure, data.BadImagesError)


def test_only_bad_images_stop():
    batches = data.AugmentedBatches(
        Numbered(50, bad=range(50)), 10, 4, channels=1, bad_images=data.BadImages(50, share=1.0)
    )
    with pytest.raises(data.ImageError, match="in a row are bad, the last file"):
        next(batches.endless())


@pytest.mark.once
def test_pieces_that_are_read_as_a_whole_stay_together():
    chunks = np.arange(0, 20_001, 100)
    order = epoch_order(seed=0, epoch=1, count=20_000, chunks=chunks)
    np.testing.assert_array_equal(np.sort(order), np.arange(20_000))
    pieces = [set(order[i : i + 4100] // 100) for i in range(0, 20_000, 4100)]
    assert all(len(p) <= 41 for p in pieces) and sum(map(len, pieces)) == 200
    assert (order != epoch_order(0, 2, 20_000, chunks)).mean() > 0.9


def test_images_of_a_source_are_cropped_as_pillow_does():
    draw = np.random.default_rng(0).integers
    picture = draw(0, 256, (60, 80, 3), dtype=np.uint8)

    class One(Numbered):
        def read(self, index):
            return picture

    batches = data.AugmentedBatches(One(4), 4, (20, 30), seed=9)
    boxes, flips = data.RandomResizedCrop().boxes(
        9, 0, batches.indices(0, 0), 60, 80, image_size=(20, 30)
    )
    for image, (top, left, height, width), flip in zip(batches[0], boxes, flips, strict=True):
        expected = Image.fromarray(picture).crop((left, top, left + width, top + height))
        expected = expected.resize((30, 20), Image.Resampling.BILINEAR)
        if flip:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        np.testing.assert_allclose((image + 1) * 127.5, np.asarray(expected), atol=1e-3)


@pytest.mark.parametrize(
    "transform", [data.RandomResizedCrop(), data.Resize(), data.CenterCrop(24)]
)
def test_batches_of_pixels_are_those_of_floats(transform):
    pictures = np.random.default_rng(0).integers(0, 256, (8, 40, 50, 3), dtype=np.uint8)

    class Pictures(Numbered):
        def read(self, index):
            return pictures[index]

    given = (Pictures(8), 4, (20, 22))
    pixels = data.AugmentedBatches(*given, transform=transform, dtype="uint8")
    floats = data.AugmentedBatches(*given, transform=transform)
    assert pixels[1].dtype == np.uint8
    np.testing.assert_array_equal(data.normalize(pixels[1]), floats[1])
    assert pixels.describe(3) == floats.describe(3)


def test_values_that_are_no_pixels_stay_floats():
    labels, mix = np.arange(8) % 2, data.MixupCutmix(2)

    class OfOnesOwn(data.ImageTransform):
        def __call__(self, pixels, draws, out):
            out[...] = 0.5

    arrays = source(8)
    for images, options in (
        (Numbered(8), {"labels": labels, "mix": mix}),
        (Numbered(8), {"transform": data.FinetuningTransform()}),
        (Numbered(8), {"transform": OfOnesOwn()}),
        (arrays, {}),
    ):
        batches = data.AugmentedBatches(images, 4, 4, channels=1, dtype="uint8", **options)
        assert batches.dtype == "float32" == keras.tree.flatten(batches[0])[0].dtype
    with pytest.raises(ValueError, match="dtype must be"):
        data.AugmentedBatches(Numbered(8), 4, (4, 4), dtype="float16")


def test_rows_of_several_labels_are_carried_and_mixed():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (6, 8, 8, 3)).astype("uint8")
    source = data.ArraySource(images, draw.integers(0, 2, (6, 4)).astype("uint8"))
    batches = data.AugmentedBatches(source, 6, 8, labels=source.labels)
    (_, targets), order = batches[0], batches.indices(0, 0)
    np.testing.assert_array_equal(targets, source.labels[order])
    mix = data.MixupCutmix(4, mixup=0, cutmix=0, label_smoothing=0.2)
    mixed = data.AugmentedBatches(source, 6, 8, labels=source.labels, mix=mix)
    np.testing.assert_allclose(mixed[0][1], source.labels[order] * 0.8 + 0.05, rtol=1e-6)
    with pytest.raises(ValueError, match="KerasCV's mixing is for one class an image"):
        data.keras_cv_batches(batches, mix)
