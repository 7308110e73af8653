"""Folders of images through tf.data, or a sentence that says that TensorFlow is missing."""

import itertools
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from nepa_keras import data

HAS_TENSORFLOW = find_spec("tensorflow") is not None


@pytest.fixture
def folder(tmp_path):
    """12 files of different sizes and kinds in subfolders, and one that is no image."""
    generator = np.random.default_rng(0)
    for i in range(12):
        mode, suffix = [("RGB", "jpg"), ("RGB", "png"), ("L", "JPEG")][i % 3]
        shape = (20 + i, 30) if mode == "L" else (20 + i, 30, 3)
        path = tmp_path / f"class{i % 2}" / f"{i:02}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def first(folder, count: int, **options) -> list[np.ndarray]:
    options = {"image_size": 16, "batch_size": 4, "seed": 1, **options}
    return [b.numpy() for b in itertools.islice(data.image_folder(folder, **options), count)]


def test_files(folder):
    files = data.image_files(folder)
    assert len(files) == 12 and files == sorted(files)
    with pytest.raises(ValueError, match="no folder .*missing.*folder:PATH"):
        data.image_files(folder / "missing")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no file ending in .jpg"):
        data.image_files(folder / "empty")


if HAS_TENSORFLOW:

    def test_batches_are_endless_and_fixed_by_the_seed(folder):
        batches = first(folder, 7)
        assert all(b.shape == (4, 16, 16, 3) and b.dtype == np.float32 for b in batches)
        assert all(abs(b).max() <= 1.0 for b in batches)
        for a, b in zip(batches, first(folder, 7), strict=True):
            np.testing.assert_array_equal(a, b)
        assert any((a != b).any() for a, b in zip(batches, first(folder, 7, seed=2), strict=True))

    def test_every_file_comes_once_a_pass(folder):
        def sums(batches):
            return np.sort(np.concatenate([b.mean(axis=(1, 2, 3)) for b in batches]))

        plain = first(folder, 6, augment=False)
        np.testing.assert_allclose(sums(plain[:3]), sums(plain[3:]), atol=1e-6)
        assert len(np.unique(sums(plain[:3]).round(5))) == 12

    def test_without_augmentation_the_picture_is_only_resized(folder):
        (path,) = [f for f in data.image_files(folder) if f.endswith("01.png")]
        picture = Image.open(path)
        (batch,) = first(folder / "class1", 1, batch_size=6, augment=False, image_size=(10, 15))
        expected = np.asarray(picture.resize((15, 10), Image.BILINEAR), "float32") / 127.5 - 1.0
        assert min(abs(image - expected).max() for image in batch) < 1.5 / 127.5

    def test_grey(folder):
        assert first(folder, 1, channels=1)[0].shape == (4, 16, 16, 1)

    def test_a_corrupt_file_is_named(folder):
        (folder / "class0" / "zz.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
        import tensorflow as tf

        with pytest.raises(tf.errors.OpError, match="zz.jpg is not a readable image"):
            first(folder, 4)

    def test_fewer_images_than_a_batch(folder):
        with pytest.raises(ValueError, match="12 images, fewer than a batch of 13"):
            first(folder, 1, batch_size=13)

else:

    def test_without_tensorflow_it_says_what_to_install(folder):
        with pytest.raises(ImportError, match="install TensorFlow"):
            first(folder, 1)
