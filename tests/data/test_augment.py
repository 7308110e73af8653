"""Crops and resizing: the numbers of Pillow, the distribution of the recipe, fixed by the seed."""

import numpy as np
import pytest
from PIL import Image

from nepa_keras import data
from nepa_keras.data.augment import crop_boxes


def images(count: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def as_bytes(floats: np.ndarray) -> np.ndarray:
    return (floats + 1.0) * 127.5


@pytest.mark.parametrize("size", [(28, 28, 28), (64, 40, 32), (9, 12, 20)])
def test_crops_are_those_of_pillow(size):
    """Crop, bilinear with antialias, flip; Pillow rounds to bytes after each of its two passes."""
    height, width, side = size
    source, rows = images(40, height, width, 3), np.arange(40)
    boxes, flips = crop_boxes(1, 0, rows, height, width)
    found = as_bytes(data.random_resized_crops(source, side, seed=1, epoch=0, indices=rows))
    for image, (top, left, h, w), flip, mine in zip(source, boxes, flips, found, strict=True):
        crop = Image.fromarray(image[top : top + h, left : left + w])
        expected = np.asarray(crop.resize((side, side), Image.BILINEAR), "float32")
        expected = expected[:, ::-1] if flip else expected
        np.testing.assert_allclose(mine, expected, atol=1.01)


def test_normalize_is_a_plain_resize():
    source = images(3, 50, 30, 3)
    found = as_bytes(data.normalize(source, (20, 40)))
    for image, mine in zip(source, found, strict=True):
        expected = np.asarray(Image.fromarray(image).resize((40, 20), Image.BILINEAR), "float32")
        np.testing.assert_allclose(mine, expected, atol=1.01)
    np.testing.assert_allclose(as_bytes(data.normalize(source)), source, atol=1e-4)


def test_boxes_follow_the_recipe():
    """Area 0.08 to 1, aspect 3/4 to 4/3, both give or take the rounding to pixels; half flipped."""
    boxes, flips = crop_boxes(3, 0, np.arange(4000), 224, 224)
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= 224).all() and (left + w <= 224).all()
    area, aspect = h * w / 224**2, w / h
    assert 0.078 < area.min() < 0.1 and 0.98 < area.max() <= 1.0
    assert 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
    # The area is uniform, but large ones fit less often into the image, so the mean is below 0.54.
    assert 0.47 < area.mean() < 0.54
    assert abs(np.log(aspect).mean()) < 0.01
    assert 0.47 < flips.mean() < 0.53
    assert abs(np.corrcoef(area, flips)[0, 1]) < 0.05


def test_a_narrow_image_gets_the_largest_box_of_a_permitted_ratio():
    boxes, _ = crop_boxes(0, 0, np.arange(50), 10, 400)
    assert (boxes[:, 2] <= 10).all() and (boxes[:, 3] <= 13).all()
    assert (boxes[:, 2:] >= 1).all()


def test_a_crop_depends_on_seed_epoch_and_index_alone():
    source, rows = images(8, 28, 28), np.arange(100, 108)

    def crops(seed=1, epoch=2, indices=rows, chosen=slice(None)):
        return data.random_resized_crops(
            source[chosen], 28, seed=seed, epoch=epoch, indices=indices[chosen]
        )

    whole = crops()
    np.testing.assert_array_equal(whole, crops())
    np.testing.assert_allclose(whole[5:6], crops(chosen=slice(5, 6)), atol=1e-6)
    for other in (crops(seed=2), crops(epoch=3), crops(indices=rows + 1)):
        assert all(np.any(a != b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("wrong", [np.zeros((2, 8, 8, 1), "float32"), np.zeros((8, 8, 1), "uint8")])
def test_normalize_names_what_it_takes(wrong):
    with pytest.raises(ValueError, match="takes uint8 images"):
        data.normalize(wrong)
