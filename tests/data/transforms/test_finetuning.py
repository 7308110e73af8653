"""RandAugment, random erasing, mixup and CutMix: what each does, and how often, as the recipe says."""

import math
from collections import Counter

import numpy as np
import pytest

from nepa_keras import data
from nepa_keras.data.order import random_numbers
from nepa_keras.data.transforms.mixing import cutmix, mixed_targets, mixup
from nepa_keras.data.transforms.rand_augment import FILL, OPERATIONS
from tests.helpers import golden_files

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)


def apply(name: str, argument, pixels: np.ndarray = COLOURS) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    return np.asarray(OPERATIONS[name][0](picture, argument)).reshape(pixels.shape)


def blended(other, factor) -> np.ndarray:
    """Reference for Pillow's enhancement by a factor: extrapolation away from `other`, clipped to bytes."""
    mixed = np.asarray(other, "float64") * (1 - factor) + COLOURS * float(factor)
    return np.clip(mixed, 0, 255)


def grey() -> np.ndarray:
    """Luminance by ITU-R 601-2, as Pillow rounds it."""
    weights = np.array([19595, 38470, 7471])
    return (COLOURS.astype(np.int64) @ weights + 32768) >> 16


def shifted(rows: int, columns: int) -> np.ndarray:
    expected = np.full_like(COLOURS, FILL)
    expected[max(-rows, 0) : 16 - max(rows, 0), max(-columns, 0) : 16 - max(columns, 0)] = COLOURS[
        max(rows, 0) : 16 - max(-rows, 0), max(columns, 0) : 16 - max(-columns, 0)
    ]
    return expected


# Each operation by its definition; within a level where Pillow cuts or rounds.
DEFINITIONS = {
    "invert": (None, lambda: 255 - COLOURS),
    "posterize": (3, lambda: COLOURS & 0b11100000),
    "solarize": (26, lambda: np.where(COLOURS < 26, COLOURS, 255 - COLOURS)),
    "solarize_add": (99, lambda: np.where(COLOURS < 128, np.minimum(COLOURS + 99, 255), COLOURS)),
    "auto_contrast": (None, lambda: COLOURS),  # it reaches from 0 to 255 already
    "color": (0.19, lambda: blended(grey()[..., None], 0.19)),
    "brightness": (1.81, lambda: blended(0, 1.81)),
    "contrast": (0.19, lambda: blended(int(grey().mean() + 0.5), 0.19)),
    "translate_x": (0.25, lambda: shifted(0, 4)),
    "translate_y": (-0.25, lambda: shifted(-4, 0)),
}


@pytest.mark.once
@pytest.mark.parametrize("name", DEFINITIONS)
def test_operations_do_what_their_names_say(name):
    argument, expected = DEFINITIONS[name]
    np.testing.assert_allclose(
        apply(name, argument).astype("float64"), expected().astype("float64"), atol=1.0
    )


@pytest.mark.once
def test_auto_contrast_and_equalize_spread_the_levels():
    narrow = (COLOURS // 4 + 90).astype(np.uint8)
    assert apply("auto_contrast", None, narrow).min() == 0
    assert apply("auto_contrast", None, narrow).max() >= 254
    uneven = (COLOURS.astype(float) ** 2 / 255).astype(np.uint8)  # dark levels crowd
    found = apply("equalize", None, uneven)[..., 0]
    assert abs(np.median(found) - 128) < 8 and np.median(uneven) < 70
    order = np.argsort(uneven[..., 0].ravel(), kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.once
def test_geometry_moves_points_by_the_angle_and_share():
    """A bright spot, where it comes from: pixels right and below of the middle."""
    size, spot = 101, (50, 80)
    board = np.zeros((size, size, 1), np.uint8)
    board[spot[0] - 1 : spot[0] + 2, spot[1] - 1 : spot[1] + 2] = 255

    def place(name, argument):
        moved = apply(name, argument, board)[..., 0].astype(float)
        moved[moved < 200] = 0  # not the grey that came in
        y, x = np.indices(moved.shape)
        return (moved * y).sum() / moved.sum(), (moved * x).sum() / moved.sum()

    assert place("rotate", 27) == pytest.approx(  # counter-clockwise: up
        (50 - 30 * math.sin(math.radians(27)), 50 + 30 * math.cos(math.radians(27))), abs=0.5
    )
    assert place("shear_x", 0.27) == pytest.approx((50, 80 - 0.27 * 50.5), abs=0.5)
    assert place("shear_y", 0.27) == pytest.approx((50 - 0.27 * 80.5, 80), abs=0.5)


@pytest.mark.once
def test_sharpness_leaves_flat_parts_and_moves_edges():
    board = np.full((9, 9, 1), 100, np.uint8)
    board[4, 4] = 200
    softer, sharper = apply("sharpness", 0.19, board), apply("sharpness", 1.81, board)
    assert softer[4, 4] < 200 < sharper[4, 4] and softer[4, 3] > 100 > sharper[4, 3]
    assert (softer[:2] == 100).all() and (sharper[:2] == 100).all()


def plans(count: int, **settings) -> list:
    augment = data.RandAugment(**settings)
    return [augment.plan(row) for row in random_numbers(5, 0, np.arange(count), augment.num_random)]


@pytest.mark.once
def test_the_policy_is_two_operations_of_fifteen_each_half_of_the_time():
    chosen = plans(30_000)
    lengths = Counter(map(len, chosen))
    for length, share in ((0, 0.25), (1, 0.5), (2, 0.25)):  # +-5 standard errors
        assert abs(lengths[length] / 30_000 - share) < 5 * math.sqrt(share * (1 - share) / 30_000)
    names = Counter(name for plan in chosen for name, _ in plan)
    assert len(names) == len(OPERATIONS) == 15
    expected = sum(names.values()) / 15
    chi_square = sum((n - expected) ** 2 / expected for n in names.values())
    assert chi_square < 43  # of 14 degrees of freedom: 1 in 10 000
    repeated = sum(len(p) == 2 and p[0][0] == p[1][0] for p in chosen) / lengths[2]
    assert abs(repeated - 1 / 15) < 0.015  # drawn with replacement


@pytest.mark.once
def test_the_magnitude_is_normal_around_nine_and_cut_at_ten():
    strengths = np.array(
        [v for plan in plans(60_000) for name, v in plan if name in ("shear_x", "shear_y")]
    ) / 0.3 * 10  # fmt: skip
    assert abs((strengths > 0).mean() - 0.5) < 0.03
    strengths = abs(strengths)
    assert strengths.max() == pytest.approx(10)
    assert abs((strengths > 9.9999).mean() - 0.0228) < 0.008  # two deviations above
    assert abs(np.median(strengths) - 9) < 0.03
    assert abs(np.quantile(strengths, 0.1587) - 8.5) < 0.05


# At magnitude 9 of 10, as timm's "increasing" policy has them.
ARGUMENTS = {
    "auto_contrast": (None, None),
    "equalize": (None, None),
    "invert": (None, None),
    "rotate": (27.0, -27.0),
    "posterize": (1, 1),
    "solarize": (26, 26),
    "solarize_add": (99, 99),
    "color": (1.81, 0.19),
    "contrast": (1.81, 0.19),
    "brightness": (1.81, 0.19),
    "sharpness": (1.81, 0.19),
    "shear_x": (0.27, -0.27),
    "shear_y": (0.27, -0.27),
    "translate_x": (0.405, -0.405),
    "translate_y": (0.405, -0.405),
}


@pytest.mark.once
def test_arguments_of_the_recipe_s_magnitude():
    assert set(ARGUMENTS) == set(OPERATIONS)
    for name, expected in ARGUMENTS.items():
        found = tuple(OPERATIONS[name][1](0.9, sign) for sign in (1, -1))
        assert found == (expected if None in expected else pytest.approx(expected)), name


@pytest.mark.once
def test_operations_grow_with_the_magnitude():
    """Magnitude 0 changes nothing, except for operations without a magnitude."""
    for name, (_, argument) in OPERATIONS.items():
        weak, middle, strong = argument(0.0, 1), argument(0.5, 1), argument(1.0, 1)
        if name in ("auto_contrast", "equalize", "invert"):
            assert weak is middle is strong is None
        elif name in ("posterize", "solarize"):  # bits that stay; threshold
            assert weak > middle > strong == 0
            assert weak == {"posterize": 4, "solarize": 256}[name]
        else:
            assert (apply(name, weak) == COLOURS).all() and weak < middle < strong
    assert [OPERATIONS[n][1](0.9, -1) for n in ("rotate", "shear_x", "translate_y")] == (
        pytest.approx([-27, -0.27, -0.405])
    )
    assert OPERATIONS["contrast"][1](0.9, -1) == pytest.approx(0.19)


@pytest.mark.once
@pytest.mark.parametrize("magnitude", [0, 9, 10])
def test_every_operation_works_at_every_magnitude(magnitude):
    for name, (_, argument) in OPERATIONS.items():
        for pixels in (COLOURS, COLOURS[..., :1]):
            for sign in (1, -1):
                found = apply(name, argument(magnitude / 10, sign), pixels)
                assert found.shape == pixels.shape and found.dtype == np.uint8
    assert (apply("posterize", 0) == 0).all()


@pytest.mark.once
def test_rand_augment_is_for_pictures():
    augment = data.RandAugment(num_ops=4, probability=1.0)
    for seed in range(20):
        draws = random_numbers(seed, 0, np.arange(1), augment.num_random)[0].tolist()
        for pixels in (COLOURS, COLOURS[..., :1]):
            found = augment(pixels, draws)
            assert found.shape == pixels.shape and found.dtype == np.uint8
    with pytest.raises(ValueError, match="not for 4 channels; leave it out"):
        augment(np.zeros((8, 8, 4), np.uint8), draws)
    with pytest.raises(ValueError, match="magnitude from 0 to 10"):
        data.RandAugment(magnitude=11)


@pytest.mark.once
def test_a_quarter_is_erased_by_boxes_of_the_recipe():
    erasing, count = data.RandomErasing(), 20_000
    rows = random_numbers(3, 1, np.arange(count), erasing.num_random).tolist()
    boxes = [box for row in rows if (box := erasing.box(row, 200, 300))]
    assert abs(len(boxes) / count - 0.25) < 5 * math.sqrt(0.1875 / count)
    top, left, h, w = np.array(boxes).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= 200).all() and (left + w <= 300).all()
    area, aspect = h * w / 60_000, h / w
    assert 0.0195 < area.min() < 0.021 and 0.32 < area.max() < 0.336
    assert 0.29 < aspect.min() < 0.32 and 3.0 < aspect.max() < 3.4
    assert abs(area[aspect < 1].mean() - (0.02 + 1 / 3) / 2) < 0.01  # those always fit
    assert (
        abs(top.mean() - (200 - h).mean() / 2) < 2 and abs(left.mean() - (300 - w).mean() / 2) < 2
    )


@pytest.mark.once
def test_erased_pixels_are_noise_and_the_rest_stays():
    erasing = data.RandomErasing(probability=1.0)
    values = []
    for row in random_numbers(0, 0, np.arange(60), erasing.num_random).tolist():
        image = np.full((40, 40, 3), 7.0, "float32")
        erasing(image, row)
        top, left, h, w = erasing.box(row, 40, 40)
        values.append(image[top : top + h, left : left + w].ravel())
        assert (image != 7).sum() == h * w * 3
        again = np.full((40, 40, 3), 7.0, "float32")
        erasing(again, row)
        np.testing.assert_array_equal(image, again)
    values = np.concatenate(values)
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    assert abs((abs(values) < 1).mean() - 0.6827) < 0.01
    assert len(np.unique(values)) > 0.99 * len(values)  # for each pixel and channel


@pytest.mark.parametrize("shape", [(64, 48, 3), (28, 28, 1)])
def test_fine_tuning_batches_are_a_function_of_position(shape):
    """Cropped, augmented, erased, mixed: the same from any start and with any number of threads."""
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    options = {
        "batch_size": 8,
        "image_size": 24,
        "labels": np.arange(40) % 4,
        "transform": data.FinetuningTransform(),
        "mix": data.MixupCutmix(4),
    }

    def stream(**settings):
        endless = data.AugmentedBatches(images, **options, **settings).endless()
        return [next(endless) for _ in range(8)]

    whole, threads, later = stream(), stream(threads=5), stream(start_step=3)
    for (a, x), (b, y) in zip(whole, threads, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)
        assert a.shape == (8, 24, 24, shape[-1]) and a.dtype == x.dtype == np.float32
        np.testing.assert_allclose(x.sum(axis=1), 1, atol=1e-5)
    for (a, x), (b, y) in zip(whole[3:], later, strict=False):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)
    assert any((a != b).any() for (a, _), (b, _) in zip(whole, stream(seed=2), strict=True))


@pytest.mark.once
def test_without_its_parts_the_transform_is_the_bicubic_crop():
    image = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    crop = data.RandomResizedCrop(interpolation="bicubic")
    bare = data.FinetuningTransform(rand_augment=None, erasing=None)
    assert bare.num_random == crop.num_random
    draws = random_numbers(0, 0, np.arange(1), crop.num_random)[0].tolist()
    found, expected = np.empty((2, 20, 20, 3), "float32")
    bare(image, draws, found)
    crop(image, draws, expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.once
def test_soft_targets_are_those_of_golden():
    """`targets` of golden's `classify`: label smoothing 0.1, mixed with the reversed batch."""
    io = golden_files.tensors("classify/io.safetensors")
    smooth = data.MixupCutmix(io["targets"].shape[1]).smooth(io["labels"])
    found = mixed_targets(smooth, float(io["mixup_lam"].ravel()[0]))
    np.testing.assert_allclose(found, io["targets"], atol=1e-7)


def numbered(count: int, size: int = 10) -> np.ndarray:
    return np.broadcast_to(
        np.arange(count, dtype="float32")[:, None, None, None], (count, size, size, 1)
    ).copy()


@pytest.mark.once
@pytest.mark.parametrize("count", [6, 7])
def test_mixup_is_a_weighted_mean_with_the_partner(count):
    images = numbered(count)
    mixup(images, 0.3)
    own = np.arange(count)
    np.testing.assert_allclose(images[:, 3, 4, 0], 0.3 * own + 0.7 * own[::-1], atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("count", [6, 7])
def test_cutmix_exchanges_a_box_and_says_how_much_stays(count):
    images = numbered(count)
    share = cutmix(images, 0.75, y=0.0, x=0.5)  # 5 x 5, of which 2 rows and 4 columns are inside
    expected = numbered(count)
    expected[:, 0:2, 3:7] = numbered(count)[::-1][:, 0:2, 3:7]
    np.testing.assert_array_equal(images, expected)
    assert share == pytest.approx(1 - 8 / 100)


@pytest.mark.once
def test_shares_follow_their_beta_distributions():
    """Half of the batches each; mean 1/2 and variance 1 / (4 (2 alpha + 1)) of mixup's share."""
    mix, found = data.MixupCutmix(2, label_smoothing=0.0), {"mixup": [], "cutmix": []}
    for seed in range(4000):
        images, targets = mix(numbered(2, 80), np.array([0, 1]), [seed, 1])
        values = set(np.unique(images[0]))
        kind = "cutmix" if values <= {0.0, 1.0} else "mixup"
        found[kind].append(targets[0, 0])
        # Pixels and targets say the same share.
        assert images[0].mean() == pytest.approx(targets[0, 1], abs=1e-5)
    mixed = np.array(found["mixup"])
    assert abs(len(mixed) / 4000 - 0.5) < 0.05
    assert abs(mixed.mean() - 0.5) < 0.03
    assert abs(mixed.var() - 1 / (4 * 2.6)) < 0.01
    # Of sides s of 1, s^2 uniform and the middle too, s - s^2/4 is inside on average: 1 - 0.321 stays, and up
    # to 2 of 80 pixels more by whole pixels.
    assert -0.015 < np.mean(found["cutmix"]) - 0.679 < 0.03


@pytest.mark.once
def test_either_way_of_mixing_can_be_switched_off():
    labels = np.array([0, 2, 1, 1])
    only = {
        "mixup": data.MixupCutmix(3, cutmix=0.0),
        "cutmix": data.MixupCutmix(3, mixup=0.0),
    }
    for seed in range(50):
        images, _ = only["cutmix"](numbered(4), labels, seed)
        assert set(np.unique(images)) <= {0.0, 1.0, 2.0, 3.0}
        images, _ = only["mixup"](numbered(4), labels, seed)
        assert (images == images[:, :1, :1]).all()
    images, targets = data.MixupCutmix(3, mixup=0.0, cutmix=0.0)(numbered(4), labels, 0)
    np.testing.assert_array_equal(images, numbered(4))
    np.testing.assert_allclose(targets, 0.9 * np.eye(3)[labels] + 0.1 / 3, atol=1e-7)


WRONG = {
    "label": (lambda: data.MixupCutmix(3)(numbered(2), np.array([0, 3]), 0), "num_classes=3"),
    "unlabelled": (
        lambda: data.MixupCutmix(3)(numbered(2), np.array([-1, 1]), 0),
        "Labels go from -1",
    ),
    "alpha": (lambda: data.MixupCutmix(3, mixup=-1), "mixup=-1"),
    "smoothing": (lambda: data.MixupCutmix(3, label_smoothing=1.0), "label_smoothing=1.0"),
    "no labels": (
        lambda: data.AugmentedBatches(
            np.zeros((4, 8, 8, 1), "uint8"), 2, 8, mix=data.MixupCutmix(3)
        ),
        "Mixing needs labels",
    ),
    "erasing": (lambda: data.RandomErasing(probability=2), "a probability"),
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_arguments_are_refused(problem):
    call, words = WRONG[problem]
    with pytest.raises(ValueError, match=words):
        call()
