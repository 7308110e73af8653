"""Evaluation's batches: each image once, in order, bad ones left out; parts of a source."""

import threading

import numpy as np
import pytest

from nepa_keras import data


class Numbered(data.ImageSource):
    """Images of their own number, some of which cannot be read."""

    def __init__(self, count: int, bad=(), chunks=None):
        super().__init__(labels=np.arange(count) % 3, class_names=("a", "b", "c"))
        self.count, self.bad = count, set(bad)
        if chunks is not None:
            self.chunks = np.asarray(chunks)

    def __len__(self):
        return self.count

    def read(self, index):
        if index in self.bad:
            raise data.ImageError("cut off")
        return np.full((4, 4, 1), index, np.uint8)

    def name(self, index):
        return f"file {index}"


def numbers(images) -> np.ndarray:
    return np.round((images[:, 0, 0, 0] + 1) * 127.5).astype(int)


@pytest.mark.once
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("count", [1, 8, 19])
def test_each_image_comes_once_in_order(count, threads):
    batches = data.OrderedBatches(Numbered(count), 4, 4, channels=1, threads=threads)
    assert len(batches) == -(-count // 4)
    for _ in range(2):
        found = list(batches)
        assert len(found) == len(batches)
        assert [len(images) for images, _ in found[:-1]] == [4] * (len(found) - 1)
        indices = np.concatenate([indices for _, indices in found])
        np.testing.assert_array_equal(indices, np.arange(count))
        for images, indices in found:
            np.testing.assert_array_equal(numbers(images), indices)
            assert images.shape[1:] == (4, 4, 1) and images.dtype == np.float32


@pytest.mark.once
def test_chosen_images_come_in_order():
    batches = data.OrderedBatches(Numbered(20), 4, 4, channels=1, indices=[7, 3, 19])
    ((images, indices),) = batches
    assert list(numbers(images)) == list(indices) == [7, 3, 19]


@pytest.mark.once
def test_bad_images_are_left_out_within_the_budget():
    account = data.BadImages(20, share=0.1)
    batches = data.OrderedBatches(Numbered(20, bad=(0, 9)), 5, 4, channels=1, bad_images=account)
    indices = np.concatenate([indices for _, indices in batches])
    np.testing.assert_array_equal(indices, [i for i in range(20) if i not in (0, 9)])
    assert sorted(account.reasons.values()) == ["file 0: cut off", "file 9: cut off"]
    with pytest.raises(data.BadImagesError, match="file 0: cut off"):
        list(data.OrderedBatches(Numbered(20, bad=(0, 9)), 5, 4, channels=1))


@pytest.mark.once
def test_a_closed_iterator_leaves_no_thread_and_reads_no_more():
    read = []

    class Counting(Numbered):
        def read(self, index):
            read.append(index)
            return super().read(index)

    stream = iter(data.OrderedBatches(Counting(400), 4, 4, channels=1, threads=2))
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("nepa_keras-evaluation")]
    assert len(read) <= 12  # this batch and those that had begun


def test_the_transform_is_applied_and_must_not_be_random():
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    ((found, _),) = data.OrderedBatches(images, 8, 16, data.CenterCrop(20))
    converter = data.NepaImageConverter(16, resize_to=20, interpolation="bicubic")
    np.testing.assert_allclose(found, converter(images), atol=1e-6)
    ((again, _),) = data.OrderedBatches(images, 8, 16, converter.transform())
    np.testing.assert_array_equal(found, again)
    with pytest.raises(ValueError, match="RandomResizedCrop is random"):
        data.OrderedBatches(images, 8, 16, data.RandomResizedCrop())
    with pytest.raises(ValueError, match=r"not of mean \[0.4"):
        data.NepaImageConverter(16, mean=0.4).transform()


@pytest.mark.once
def test_a_subset_is_a_source():
    subset = data.SubsetSource(Numbered(20, bad=[5]), [5, 2, 11])
    assert len(subset) == 3 and list(subset.labels) == [2, 2, 2]
    assert subset.class_names == ("a", "b", "c")
    assert subset.read(1)[0, 0, 0] == 2 and subset.name(2) == "file 11"
    with pytest.raises(data.ImageError):
        subset.read(0)


@pytest.mark.once
def test_pieces_of_a_subset_are_those_of_the_source():
    source = Numbered(12, chunks=[0, 4, 8, 12])
    np.testing.assert_array_equal(data.SubsetSource(source, [1, 2, 9]).chunks, [0, 2, 3])
    assert not hasattr(data.SubsetSource(source, [9, 1]), "chunks")


@pytest.mark.once
def test_held_out_images_are_a_share_of_each_class():
    labels = np.repeat([0, 1, 2], [100, 50, 2])
    train, validation = data.held_out(labels, 0.1, seed=3)
    assert sorted([*train, *validation]) == list(range(152))
    np.testing.assert_array_equal(np.bincount(labels[validation]), [10, 5, 1])
    unlabelled = np.append(labels, [-1, -1, -1])
    for part, whole in zip(
        data.held_out(unlabelled, 0.1, seed=3), (train, validation), strict=True
    ):
        np.testing.assert_array_equal(part, whole)
    again = data.held_out(labels, 0.1, seed=3)[1]
    np.testing.assert_array_equal(validation, again)
    assert (validation[:10] != data.held_out(labels, 0.1, seed=4)[1][:10]).any()
    with pytest.raises(ValueError, match="Class 1 has a single image"):
        data.held_out(np.array([0, 0, 1]), 0.5, seed=0)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1.0"):
        data.held_out(labels, 1.0, seed=0)


@pytest.mark.once
def test_labels_of_another_source_are_assigned_by_name():
    source = Numbered(6)  # a, b, c
    source.labels = np.array([0, 1, 2, -1, 1, 0], "int32")
    moved = data.with_classes(source, ("c", "x", "a", "b"), 4)
    np.testing.assert_array_equal(moved.labels, [2, 3, 0, -1, 3, 2])
    assert moved.class_names == ("c", "x", "a", "b") and moved.read(4)[0, 0, 0] == 4
    np.testing.assert_array_equal(source.labels, [0, 1, 2, -1, 1, 0])
    assert data.with_classes(source, ("a", "b", "c"), 3).labels.tolist() == source.labels.tolist()
    with pytest.raises(ValueError, match="1 classes that the model does not know: b"):
        data.with_classes(source, ("a", "c"), 2)
    # Other words altogether, or none: by number.
    assert data.with_classes(source, ("n01", "n02", "n03"), 3) is source
    assert data.with_classes(source, None, 3) is source
    with pytest.raises(ValueError, match="up to number 2, the model has 2"):
        data.with_classes(source, None, 2)
