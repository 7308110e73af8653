"""Crops and resizing: the numbers of Pillow, the distribution of the recipe, fixed by the seed."""

import numpy as np
import pytest
from PIL import Image

from nepa_keras import data
from nepa_keras.data.transforms.resample import resize


def images(count: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def as_bytes(floats: np.ndarray) -> np.ndarray:
    return (floats + 1.0) * 127.5


def transformed(transform, pixels, image_size, draws=()) -> np.ndarray:
    out = np.empty((*image_size, pixels.shape[-1]), "float32")
    transform(pixels, list(draws), out)
    return as_bytes(out)


INTERPOLATIONS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
# Pillow rounds to bytes after each of its two passes: half a level in the end, and half of one before times
# the sum of the second filter's absolute weights, at most 1 and 1.25; a hundredth for its fixed point.
WITHIN = {"bilinear": 1.01, "bicubic": 1.135}


@pytest.mark.once
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(28, 28, 28), (64, 40, 32), (9, 12, 20)])
def test_crops_are_those_of_pillow(size, interpolation):
    """Crop, resize with antialias, flip. Half the contrast, as Pillow also clips between its passes."""
    height, width, side = size
    source, rows = images(40, height, width, 3) // 2 + 64, np.arange(40)
    transform = data.RandomResizedCrop(interpolation=interpolation)
    boxes, flips = transform.boxes(1, 0, rows, height, width)
    found = as_bytes(transform.of_arrays(source, side, seed=1, epoch=0, indices=rows))
    for image, (top, left, h, w), flip, mine in zip(source, boxes, flips, found, strict=True):
        crop = Image.fromarray(image[top : top + h, left : left + w])
        expected = crop.resize((side, side), INTERPOLATIONS[interpolation])
        expected = np.asarray(expected, "float32")
        expected = expected[:, ::-1] if flip else expected
        np.testing.assert_allclose(mine, expected, atol=WITHIN[interpolation])


@pytest.mark.once
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_normalize_is_a_plain_resize(interpolation):
    source = images(3, 50, 30, 3) // 2 + 64
    found = as_bytes(data.normalize(source, (20, 40), interpolation))
    for image, mine in zip(source, found, strict=True):
        expected = Image.fromarray(image).resize((40, 20), INTERPOLATIONS[interpolation])
        np.testing.assert_allclose(
            mine, np.asarray(expected, "float32"), atol=WITHIN[interpolation]
        )
        one = transformed(data.Resize(interpolation), image, (20, 40))
        np.testing.assert_allclose(one, np.asarray(expected, "float32"), atol=1e-3)
    np.testing.assert_allclose(as_bytes(data.normalize(source)), source, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_many_channels_are_resized_like_three(interpolation):
    three = images(1, 50, 30, 3)[0] // 2 + 64
    nine = resize(np.concatenate([three] * 3, axis=-1), (20, 40), interpolation)
    expected = resize(three, (20, 40), interpolation).astype(int)
    assert nine.dtype == np.uint8
    for start in (0, 3, 6):
        assert abs(nine[..., start : start + 3] - expected).max() <= 1


@pytest.mark.once
def test_boxes_follow_the_recipe():
    """Area 0.08 to 1, aspect 3/4 to 4/3, both give or take the rounding to pixels; half flipped."""
    boxes, flips = data.RandomResizedCrop().boxes(3, 0, np.arange(4000), 224, 224)
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


@pytest.mark.once
def test_boxes_have_the_shape_of_a_result_that_is_not_square():
    """Stretched by 3/4 to 4/3 and no more, whatever comes out; a square has the recipe's boxes."""
    crop, rows = data.RandomResizedCrop(), np.arange(1000)
    boxes, _ = crop.boxes(3, 0, rows, 300, 400, (200, 300))
    stretch = boxes[:, 3] / boxes[:, 2] / 1.5
    assert 0.73 < stretch.min() < 0.77 and 1.3 < stretch.max() < 1.36
    assert abs(np.log(stretch).mean()) < 0.02
    square, plain = crop.boxes(3, 0, rows, 300, 400, 224), crop.boxes(3, 0, rows, 300, 400)
    np.testing.assert_array_equal(square[0], plain[0])


@pytest.mark.once
def test_the_recipe_can_be_changed():
    crop = data.RandomResizedCrop(area=(0.25, 0.3), aspect=(1.0, 1.0), flip=0.0)
    boxes, flips = crop.boxes(0, 0, np.arange(500), 100, 100)
    assert (boxes[:, 2] == boxes[:, 3]).all() and not flips.any()
    assert set(boxes[:, 2]) == {50, 51, 52, 53, 54, 55}


@pytest.mark.once
def test_a_narrow_image_gets_the_largest_box_of_a_permitted_ratio():
    boxes, _ = data.RandomResizedCrop().boxes(0, 0, np.arange(50), 10, 400)
    assert (boxes[:, 2] <= 10).all() and (boxes[:, 3] <= 13).all()
    assert (boxes[:, 2:] >= 1).all()


@pytest.mark.once
def test_a_crop_depends_on_seed_epoch_and_index_alone():
    source, rows = images(8, 28, 28), np.arange(100, 108)

    def crops(seed=1, epoch=2, indices=rows, chosen=slice(None)):
        return data.RandomResizedCrop().of_arrays(
            source[chosen], 28, seed=seed, epoch=epoch, indices=indices[chosen]
        )

    whole = crops()
    np.testing.assert_array_equal(whole, crops())
    np.testing.assert_allclose(whole[5:6], crops(chosen=slice(5, 6)), atol=1e-6)
    for other in (crops(seed=2), crops(epoch=3), crops(indices=rows + 1)):
        assert all(np.any(a != b) for a, b in zip(whole, other, strict=True))


# What torchvision's Resize(n) and CenterCrop(c) do with these sizes: the longer side cut to whole pixels,
# the margin rounded half to even.
EVALUATION = {
    "landscape": ((375, 500), 256, (224, 224), (256, 341), (16, 58)),
    "portrait": ((640, 427), 256, (224, 224), (383, 256), (80, 16)),
    "odd margin": ((100, 100), 59, (28, 32), (59, 59), (16, 14)),
    "enlarged": ((20, 31), 40, (40, 40), (40, 62), (0, 11)),
    "whatever the ratio": ((300, 200), (235, 235), (224, 224), (235, 235), (6, 6)),
}


@pytest.mark.once
@pytest.mark.parametrize("case", EVALUATION)
def test_the_evaluation_transform_is_that_of_torchvision(case):
    (height, width), resize_to, size, resized, (top, left) = EVALUATION[case]
    image = images(1, height, width, 3)[0]
    found = transformed(data.CenterCrop(resize_to), image, size)
    whole = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.BICUBIC))
    expected = whole[top : top + size[0], left : left + size[1]]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_converter_crops_like_the_evaluation_transform():
    image = images(1, 375, 500, 3)[0]
    converter = data.NepaImageConverter(224, resize_to=256, interpolation="bicubic")
    found = transformed(data.CenterCrop(256), image, (224, 224))
    np.testing.assert_allclose(as_bytes(converter(image)[0]), found, atol=1e-3)


WRONG = {
    "out": (
        lambda: data.Resize()(images(1, 8, 8, 3)[0], [], np.empty((4, 4, 1), "float32")),
        r"float32 or uint8 \(height, width, 3\), got float32 \(4, 4, 1\)",
    ),
    "bytes": (
        lambda: data.Resize()(images(1, 8, 8, 3)[0], [], np.empty((4, 4, 3), "int16")),
        "got int16",
    ),
    "interpolation": (lambda: data.Resize("cubic"), "bilinear, bicubic, got 'cubic'"),
    "area": (lambda: data.RandomResizedCrop(area=(0.5, 0.2)), r"area=\(0.5, 0.2\)"),
    "too large": (
        lambda: transformed(data.CenterCrop(16), images(1, 20, 20)[0], (28, 28)),
        "larger resize_to",
    ),
    "nothing": (lambda: data.CenterCrop(0), "resize_to must be positive, got 0"),
    "floats": (lambda: data.normalize(np.zeros((2, 8, 8, 1), "float32")), "takes uint8 images"),
    "one image": (lambda: data.normalize(np.zeros((8, 8, 1), "uint8")), "takes uint8 images"),
}


@pytest.mark.once
@pytest.mark.parametrize("problem", WRONG)
def test_wrong_arguments_are_refused(problem):
    call, words = WRONG[problem]
    with pytest.raises(ValueError, match=words):
        call()
