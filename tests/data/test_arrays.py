"""The image sets in memory: what is in them, and what a damaged or missing file says."""

import gzip
import shutil
import struct

import numpy as np
import pytest

from nepa_keras import data
from nepa_keras.data import arrays
from nepa_keras.data.idx import FILES, read_idx

pytestmark = pytest.mark.once


def idx_bytes(array: np.ndarray) -> bytes:
    """IDX content of a uint8 array, as the official files have it."""
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture
def official_folder(tmp_path):
    """A folder like Fashion-MNIST's, with 30 training and 20 test images."""
    generator = np.random.default_rng(0)
    made = {
        "train_images": generator.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "train_labels": np.arange(30, dtype=np.uint8) % 10,
        "test_images": generator.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "test_labels": np.arange(20, dtype=np.uint8) % 10,
    }
    for name, array in made.items():
        (tmp_path / FILES[name]).write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path, made


def test_embedded_images():
    held = data.load()
    assert held.train_images.shape == (10_000, 28, 28, 1)
    assert held.test_images.shape == (2_000, 28, 28, 1)
    assert held.train_images.dtype == held.test_images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(held.train_labels), [1000] * 10)
    np.testing.assert_array_equal(np.bincount(held.test_labels), [200] * 10)
    assert len(held.class_names) == 10 and held.class_names[9] == "ankle boot"
    # Trousers are dark in the corners and bright in the middle: labels and images belong together.
    trousers = held.train_images[held.train_labels == 1].mean(axis=0)
    assert trousers[:, 12:16].mean() > 100 > 30 > trousers[:, :4].mean()
    assert not set(map(bytes, held.test_images)) & set(map(bytes, held.train_images))


def test_a_damaged_embedded_file_is_noticed(tmp_path, monkeypatch):
    copy = tmp_path / "images.npz"
    shutil.copy(arrays.EMBEDDED_FILE, copy)
    with open(copy, "r+b") as file:
        file.seek(2_000_000)
        file.write(b"\xff")
    monkeypatch.setattr(arrays, "EMBEDDED_FILE", copy)
    with pytest.raises(ValueError, match=r"images.npz is damaged.*reinstall"):
        data.load("embedded")


def test_digits_are_read_as_arrays():
    held = data.load("digits")
    assert held.train_images.shape == (1437, 8, 8, 1) and held.test_images.shape == (360, 8, 8, 1)
    assert held.train_images.dtype == np.uint8 and held.train_images.max() == 255
    assert set(held.train_labels) == set(held.test_labels) == set(range(10))


def test_fashion_mnist_from_a_folder(official_folder):
    folder, made = official_folder
    held = data.load("fashion_mnist", folder)
    np.testing.assert_array_equal(held.train_images[..., 0], made["train_images"])
    np.testing.assert_array_equal(held.test_labels, made["test_labels"])


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<html>not found</html>", "not a complete gzip file"),
        (gzip.compress(b"\0\0\x08\x03" + b"\0" * 12)[:-6], "not a complete gzip file"),
        (gzip.compress(b"PNG and so on"), "not an IDX file"),
        (gzip.compress(idx_bytes(np.zeros((3, 2), np.uint8))[:-1]), "as many bytes"),
        (gzip.compress(b"\0\0\x08\x03\0\0"), "as many bytes"),
    ],
    ids=["no gzip", "cut gzip", "no IDX", "cut IDX", "cut header"],
)
def test_damaged_files_are_named(tmp_path, content, words):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"images.gz.*{words}"):
        read_idx(path)


def test_missing_files_and_names(official_folder):
    folder, _ = official_folder
    (folder / FILES["test_labels"]).unlink()
    with pytest.raises(ValueError, match=r"no file .*t10k-labels"):
        data.load("fashion_mnist", folder)
    with pytest.raises(ValueError, match=r"'cifar'.*embedded, digits or fashion_mnist"):
        data.load("cifar")
    with pytest.raises(ValueError, match=r"digits.*data_dir"):
        data.load("digits", folder)


def test_no_network_says_where_else_the_files_are(monkeypatch, tmp_path):
    """Keras' download cannot reach anything here."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"t10k-labels.*--data_dir.*dataset-fashion-mnist"):
        data.load("fashion_mnist")
