"""The fingerprint of a set of images: the same wherever it lies, another for another set."""

import shutil

import numpy as np
import pytest
from PIL import Image

from nepa_keras import data

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "here" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8 + i, 3), dtype="uint8")
            Image.fromarray(pixels).save(tmp_path / "here" / name / f"{i}.png")
    return tmp_path / "here"


def of_folder(folder) -> str:
    return data.fingerprint(data.open_source(f"folder:{folder}"))


def test_a_folder_may_move(folder, tmp_path):
    before = of_folder(folder)
    assert before.startswith("8 images (")
    (tmp_path / "job" / "deep").mkdir(parents=True)
    shutil.move(folder, tmp_path / "job" / "deep" / "there")
    assert of_folder(tmp_path / "job" / "deep" / "there") == before


def test_another_set_has_another(folder):
    found = {of_folder(folder)}
    image = folder / "cat" / "1.png"
    shutil.copy(folder / "dog" / "3.png", image)  # replaced
    found.add(of_folder(folder))
    image.rename(folder / "cat" / "x.png")
    found.add(of_folder(folder))
    (folder / "cat" / "x.png").unlink()
    found.add(of_folder(folder))
    (folder / "dog").rename(folder / "horse")
    found.add(of_folder(folder))
    assert len(found) == 5


def test_labels_and_pixels_in_memory_count():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype="uint8")
    labels = np.arange(6) % 2
    one = data.fingerprint(data.ArraySource(images, labels))
    assert one == data.fingerprint(data.ArraySource(images.copy(), labels))
    assert one != data.fingerprint(data.ArraySource(images, 1 - labels))
    assert one != data.fingerprint(data.ArraySource(255 - images, labels))


def test_of_some_of_the_images(folder):
    whole = data.open_source(f"folder:{folder}")
    first, last = data.SubsetSource(whole, range(4)), data.SubsetSource(whole, range(4, 8))
    assert data.fingerprint(first) != data.fingerprint(last)
