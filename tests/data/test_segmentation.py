"""Pairs of images and masks: sources, ADE20K's layout, transforms under which both move together."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nepa_keras import data
from nepa_keras.data import segmentation
from nepa_keras.data.order import random_numbers
from nepa_keras.data.segmentation.transforms import distort
from tests.helpers.pairs import ade_tree, write


@pytest.mark.once
def test_ade20k_is_read_as_it_comes(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    ade_tree(root)
    for place in (root, tmp_path):
        train, val = segmentation.ade20k(place), segmentation.ade20k(place, "val")
        assert (len(train), len(val)) == (6, 2)
    assert train.num_classes == 150 and train.class_names[:2] == ("thing 1", "thing 2")
    image, labels = train.pair(3)
    mask = np.array(Image.open(train.files[3][1]))
    assert image.shape == (*mask.shape, 3)
    np.testing.assert_array_equal(labels[mask == 0], 255)
    np.testing.assert_array_equal(labels[mask > 0], mask[mask > 0] - 1)
    np.testing.assert_array_equal(image, np.array(Image.open(train.files[3][0])))


def broken(tmp_path, how):
    root = tmp_path / "ADEChallengeData2016"
    ade_tree(root)
    if how == "no mask":
        (root / "annotations" / "training" / "ADE_train_00000002.png").unlink()
    elif how == "no image":
        (root / "images" / "training" / "ADE_train_00000002.jpg").unlink()
    elif how == "no names":
        (root / "objectInfo150.txt").unlink()
    elif how == "few names":
        (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall")
    elif how == "full release":
        (root / "images" / "training" / "a" / "abbey").mkdir(parents=True)
    elif how == "no masks":
        (root / "annotations").rename(root / "masks")
    return root


WRONG = {
    "no mask": r"ADE_train_00000002.jpg has no mask",
    "no image": r"ADE_train_00000002.png has no image",
    "no names": "objectInfo150.txt is missing",
    "few names": "names 1 classes; there are 150",
    "full release": "full ADE20K data set .* needed is the archive ADEChallengeData2016.zip",
    "no masks": "There is no folder .*annotations/training",
}


@pytest.mark.once
@pytest.mark.parametrize("how", WRONG)
def test_an_unknown_folder_layout_is_refused(how, tmp_path):
    with pytest.raises(ValueError, match=WRONG[how]):
        segmentation.ade20k(broken(tmp_path, how))
    with pytest.raises(ValueError, match="splits train and val, not 'test'"):
        segmentation.ade20k(tmp_path, "test")


BAD_MASKS = {
    "another size": (np.zeros((5, 5), np.uint8), "the image has 8x9 pixels, its mask 5x5"),
    "a colour picture": (np.zeros((8, 9, 3), np.uint8), "a colour image"),
    "a label too large": (
        np.full((8, 9), 3, np.uint8),
        "has the label 3, but the classes are 0 to 2",
    ),
    "16 bits": (np.full((8, 9), 300, np.uint16), "no class numbers from 0 to 255"),
}


@pytest.mark.once
@pytest.mark.parametrize("how", BAD_MASKS)
def test_a_mask_that_does_not_fit_its_image_is_named(how, tmp_path):
    mask, words = BAD_MASKS[how]
    write(tmp_path / "images" / "a.png", np.zeros((8, 9, 3), np.uint8))
    write(tmp_path / "masks" / "a.png", mask)
    source = segmentation.FolderPairs(tmp_path / "images", tmp_path / "masks", "abc")
    with pytest.raises(data.ImageError, match=words):
        source.read(0)


@pytest.mark.once
def test_a_damaged_mask_is_a_bad_image(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((8, 9, 3), np.uint8))
    write(tmp_path / "masks" / "a.png", np.zeros((8, 9), np.uint8))
    path = tmp_path / "masks" / "a.png"
    path.write_bytes(path.read_bytes()[:-30])
    source = segmentation.FolderPairs(tmp_path / "images", tmp_path / "masks", "abc")
    with pytest.raises(data.ImageError, match="its mask cannot be read"):
        source.read(0)


def stored(tmp_path, values, **options):
    """Pairs of one image and a mask that Pillow stores as a.png in the format of the options."""
    values = np.asarray(values)
    write(tmp_path / "images" / "a.png", np.zeros((*values.shape[:2], 3), np.uint8))
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "masks" / "a.png", **options)
    return segmentation.FolderPairs(tmp_path / "images", tmp_path / "masks", "abc")


NO_MASKS = {
    "a JPEG": (np.zeros((8, 9), np.uint8), {"format": "JPEG"}, "stored as JPEG, which changes"),
    "a WebP": (np.zeros((8, 9, 3), np.uint8), {"format": "WEBP"}, "stored as WEBP"),
    "a TIFF that is a JPEG": (
        np.zeros((8, 9), np.uint8),
        {"format": "TIFF", "compression": "jpeg"},
        "stored as TIFF, which changes",
    ),
    "fractions": (np.full((8, 9), 1.7, "float32"), {"format": "TIFF"}, "no class numbers"),
    "NaN": (np.full((8, 9), np.nan, "float32"), {"format": "TIFF"}, "no class numbers"),
    "below 0": (np.full((8, 9), -1, "int32"), {"format": "TIFF"}, "no class numbers"),
    "infinite": (np.full((8, 9), np.inf, "float32"), {"format": "TIFF"}, "no class numbers"),
}


@pytest.mark.once
@pytest.mark.parametrize("how", NO_MASKS)
def test_what_is_no_mask_is_refused(how, tmp_path):
    values, options, words = NO_MASKS[how]
    with pytest.raises(data.ImageError, match=words):
        stored(tmp_path, values, **options).read(0)


MASKS = {
    "whole floats": (np.full((4, 5), 2, "float32"), {"format": "TIFF"}),
    "integers": (np.full((4, 5), 2, "int32"), {"format": "TIFF"}),
    "16 bits": (np.full((4, 5), 2, "uint16"), {"format": "PNG"}),
    "bits": (np.eye(4, 5, dtype=bool), {"format": "PNG"}),
    "BMP": (np.full((4, 5), 2, "uint8"), {"format": "BMP"}),
}


@pytest.mark.once
@pytest.mark.parametrize("how", MASKS)
def test_masks_of_whole_numbers_in_any_type(how, tmp_path):
    values, options = MASKS[how]
    labels = stored(tmp_path, values, **options).read(0)[..., -1]
    np.testing.assert_array_equal(labels, values.astype("uint8"))


def pairs_of(tmp_path, *masks, names="ab", **options):
    for i, mask in enumerate(masks):
        mask = np.asarray(mask, np.uint8)
        write(tmp_path / "images" / f"{i}.png", np.zeros((*mask.shape, 3), np.uint8))
        write(tmp_path / "masks" / f"{i}.png", mask)
    return segmentation.FolderPairs(tmp_path / "images", tmp_path / "masks", names, **options)


@pytest.mark.once
def test_what_masks_hold_is_said(tmp_path):
    half = [[0, 0], [255, 255]]
    cases = {
        "good": ([[[0, 1]], [[1, 0]]], []),
        "void": ([[[0, 1], [1, 255]]], ["25 % of the pixels of 1 masks have no class"]),
        "foreground": (
            [half, half],
            [
                "A class of 2 in no mask of 2 masks: b.",
                "50 % of the pixels of 2 masks have no class (255, and 0 under reduce_zero_label): they "
                "neither train nor count.",
                "If 255 is meant as a class, .* such as 1 for b.",
            ],
        ),
        "empty": ([[[0, 0]]], ["A class of 2 in no mask of 1 masks: b."]),
        "beyond": (
            [[[0, 1]], [[1, 7]]],
            [
                "1 of 2 masks cannot be used, such as .*1.png: its mask has the label 7, but the classes are "
            ],
        ),
        "from 1": ([[[1, 2]]], [".*has the label 2, .*use reduce_zero_label"]),
    }
    for name, (masks, expected) in cases.items():
        notes = segmentation.mask_notes(pairs_of(tmp_path / name, *masks))
        assert len(notes) == len(expected), notes
        for note, words in zip(notes, expected, strict=True):
            assert note.startswith(words) or re.match(words, note), note
    with pytest.raises(ValueError, match=r"No pixel of 1 masks has a class; .*0 to 1"):
        segmentation.mask_notes(pairs_of(tmp_path / "none", np.full((3, 3), 255)))
    with pytest.raises(ValueError, match="No pixel of 1 masks"):
        pairs = pairs_of(tmp_path / "zero", [[0, 0]], reduce_zero_label=True)
        segmentation.mask_notes(pairs)


@pytest.mark.once
def test_of_many_masks_some_are_looked_at(tmp_path):
    pairs = pairs_of(tmp_path, *([[[0]]] * 9), [[1]])
    assert segmentation.mask_notes(pairs) == ()
    assert segmentation.mask_notes(pairs, limit=2) == ()  # the first and the last
    part = segmentation.SubsetPairs(pairs, range(9))
    assert segmentation.mask_notes(part, 3) == ("A class of 2 in no mask of 3 of 9 masks: b.",)


@pytest.mark.once
def test_pairs_by_text(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / "images" / split / "deep" / "a.jpg", np.zeros((8, 9, 3), np.uint8))
        picture = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8), "P")
        picture.putpalette([7, 8, 9] * 256)
        (tmp_path / "masks" / split / "deep").mkdir(parents=True)
        picture.save(tmp_path / "masks" / split / "deep" / "a.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\n\nsand\n")
    source = segmentation.open_pairs(f"pairs:{tmp_path}", "test")
    assert source.class_names == ("sky", "sea", "sand")
    np.testing.assert_array_equal(source.pair(0)[1], [[0, 1], [2, 255]])  # of a palette the indices
    reduced = segmentation.open_pairs(f"pairs:{tmp_path}", "test", reduce_zero_label=True)
    np.testing.assert_array_equal(reduced.pair(0)[1], [[255, 0], [1, 255]])
    deep = np.linspace(0, 4095, 4, dtype=np.uint16).reshape(2, 2)
    (tmp_path / "images" / "test" / "deep" / "a.jpg").unlink()
    Image.fromarray(deep).save(tmp_path / "images" / "test" / "deep" / "a.png")
    dark = segmentation.open_pairs(f"pairs:{tmp_path}", "test")
    assert dark.pair(0)[0].max() < 20 and "--value_range=0,4095" in dark.notes[0]
    mapped = segmentation.open_pairs(f"pairs:{tmp_path}", "test", value_range=(0, 4095))
    assert mapped.pair(0)[0][..., 0].tolist() == [[0, 85], [170, 255]] and not mapped.notes
    cases = {
        "which scenes are not": ("scenes", "train", False, (0, 4095)),
        "has the splits train, test, not val": (f"pairs:{tmp_path}", "val"),
        "classes.txt is missing": (f"pairs:{tmp_path / 'masks'}", None),
        "is for pairs:PATH": ("scenes", "train", True),
        "known are scenes": ("coco:x", "train"),
        "no in-memory data set 'cats'": ("scenes:cats", "train"),
    }
    for words, arguments in cases.items():
        with pytest.raises(ValueError, match=words):
            segmentation.open_pairs(*arguments)


@pytest.mark.once
def test_training_and_validation_share_no_image(tmp_path):
    """A share is held out where there is no split for it; what is not split serves for both."""
    for i in range(20):
        write(tmp_path / "images" / f"{i}.png", np.full((2, 3, 3), i, np.uint8))
        write(tmp_path / "masks" / f"{i}.png", np.full((2, 3), i % 2, np.uint8))
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    text = f"pairs:{tmp_path}"
    assert segmentation.splits_of(text) == () and segmentation.test_split(text) is None
    parts = segmentation.train_and_validation(text, 0.25, seed=1)
    assert [len(part) for part in parts] == [15, 5]
    seen = [{part.name(i) for i in range(len(part))} for part in parts]
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 20
    for part in parts:
        image, labels = part.pair(2)
        assert image[0, 0, 0] % 2 == labels[0, 0] and part.class_names == ("sky", "sea")
    with pytest.raises(ValueError, match="leaves none"):
        segmentation.train_and_validation(text, 0.01)
    (tmp_path / "images" / "test").mkdir()
    with pytest.raises(ValueError, match="has the splits test, not train"):
        segmentation.train_and_validation(text)
    ade_tree(tmp_path / "ADEChallengeData2016", 3, 2)
    ade = f"ade20k:{tmp_path}"
    assert [len(part) for part in segmentation.train_and_validation(ade)] == [3, 2]
    assert segmentation.test_split(ade) == "val" and segmentation.test_split("scenes") == "test"


@pytest.mark.once
def test_two_images_of_one_name_are_refused(tmp_path):
    for name in ("a.png", "a.jpg"):
        write(tmp_path / "images" / name, np.zeros((2, 3, 3), np.uint8))
    write(tmp_path / "masks" / "a.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="have the same name"):
        segmentation.FolderPairs(tmp_path / "images", tmp_path / "masks", "ab")
    with pytest.raises(ValueError, match="There is no folder"):
        segmentation.FolderPairs(tmp_path / "images", tmp_path / "labels", "ab")


@pytest.mark.once
@pytest.mark.parametrize("name", ["embedded", "digits"])
def test_scenes_are_things_with_their_classes(name):
    scenes = segmentation.Scenes(name, "train", 30, seed=3)
    held = data.load(name)
    assert scenes.class_names == ("background", *held.class_names)
    seen = set()
    for index in range(30):
        image, labels = scenes.pair(index)
        assert image.shape == (*labels.shape, 1) and image.dtype == labels.dtype == np.uint8
        assert 0.1 < (labels == 0).mean() < 0.98
        seen |= set(np.unique(labels).tolist())
        assert image[labels > 0].min() > 25
        again = segmentation.Scenes(name, "train", 30, seed=3).pair(index)
        np.testing.assert_array_equal(image, again[0])
        np.testing.assert_array_equal(labels, again[1])
    assert seen == set(range(11))
    for split in ("test", "val"):
        other = segmentation.Scenes(name, split, 30, seed=3).pair(0)
        assert (other[0] != scenes.pair(0)[0]).any()


def coded(height: int, width: int, seed: int) -> np.ndarray:
    """A pair whose image says its label: large areas, of grey 10 times the label."""
    draw = np.random.default_rng(seed).integers(0, 20, (3, 4), dtype=np.uint8)
    labels = draw[np.arange(height)[:, None] * 3 // height, np.arange(width) * 4 // width]
    return np.stack([labels * 10] * 3 + [labels], axis=-1)


@pytest.mark.once
@settings(max_examples=40, deadline=None)
@given(st.integers(60, 120), st.integers(60, 120), st.integers(0, 1000))
def test_image_and_mask_never_drift_apart(height, width, seed):
    """Image and labels agree inside an area; outside the image both are empty."""
    transform = segmentation.SegmentationTransform(None, photometric=False)
    pixels, out = coded(height, width, seed), np.empty((48, 48, 4), "float32")
    (draws,) = random_numbers(seed, 0, np.array([0]), transform.num_random).tolist()
    transform(pixels, draws, out)
    image, labels = (out[..., :3] + 1) * 127.5, out[..., 3]
    outside = labels == 255
    np.testing.assert_array_equal(out[outside][:, :3], 0.0)
    said = image[..., 0] / 10
    # Interpolation blurs an edge over a pixel of the source or of the result, whichever is larger.
    wide = 3
    inner = ~outside
    for shift in itertools.product(range(-wide, wide + 1), repeat=2):
        inner &= np.roll(labels, shift, (0, 1)) == labels
    inner[:wide], inner[-wide:], inner[:, :wide], inner[:, -wide:] = (False,) * 4
    assert inner.any()
    np.testing.assert_allclose(said[inner], labels[inner], atol=0.06)


@pytest.mark.once
def test_crops_avoid_what_one_class_fills():
    """An image nine tenths of one class: most crops of a quarter of it would be over the share."""
    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[:20, :20, 3] = 1
    shares = {}
    for share in (0.75, 1.0):
        transform = segmentation.SegmentationTransform(
            None, (1.0, 1.0), largest_share=share, photometric=False
        )
        good = 0
        for index in range(300):
            out = np.empty((24, 24, 4), "float32")
            (draws,) = random_numbers(0, 0, np.array([index]), transform.num_random).tolist()
            transform(pixels, draws, out)
            counts = np.bincount(out[..., 3].astype(int).ravel(), minlength=2)
            good += counts.min() > 0 and counts.max() < 0.75 * counts.sum()
        shares[share] = good / 300
    assert shares[0.75] > 2 * shares[1.0] and shares[0.75] > 0.5


@pytest.mark.once
def test_sizes_are_drawn_between_the_ratios():
    transform = segmentation.SegmentationTransform((2048, 512), (0.5, 2.0))
    sizes = [transform._size(x, 300, 400) for x in np.linspace(0, 1 - 1e-9, 50)]
    heights = np.array([h for h, _ in sizes])
    assert heights[0] == 256 and heights[-1] == 1024 and (np.diff(heights) > 0).all()
    for height, width in sizes:
        assert width == pytest.approx(height * 4 / 3, abs=1)
    assert segmentation.fitting_size(100, 1000, (2048, 512)) == (205, 2048)  # the long bound


@pytest.mark.once
def test_flips_and_colour_changes_happen_half_of_the_time():
    rows = random_numbers(0, 0, np.arange(2000), segmentation.SegmentationTransform.num_random)
    grey = np.full((2, 2, 3), 100, np.uint8)
    changed = np.mean([(distort(grey, row[-9:]) != 100).any() for row in rows])
    # Of grey, brightness and contrast show: 1 - 1/4, less those that change nothing.
    assert 0.70 < changed < 0.76
    color = np.array([[[200, 60, 20]]], np.uint8)
    results = np.array([distort(color, row[-9:])[0, 0] for row in rows], float)
    assert results.std(axis=0).min() > 20 and np.abs(results.mean(axis=0) - color).max() < 30
    pixels = coded(30, 30, 1)
    transform = segmentation.SegmentationTransform(None, (1, 1), 1.0, photometric=False)
    flips = 0
    for row in rows[:400].tolist():
        out = np.empty((30, 30, 4), "float32")
        transform(pixels, row, out)
        flips += (out[..., 3] == pixels[:, ::-1, 3]).all()
    assert 160 < flips < 240


def test_batches_begin_anywhere_and_replace_bad_pairs():
    def batches(source, **options):
        transform = segmentation.SegmentationTransform(None)
        return segmentation.SegmentationBatches(source, 4, 32, 5, transform, **options).endless()

    scenes = segmentation.Scenes("digits", "train", 12)
    stream = batches(scenes)
    passed = [next(stream) for _ in range(5)]
    for images, labels in passed:
        assert images.shape == (4, 32, 32, 1) and images.dtype == np.float32
        assert labels.shape == (4, 32, 32) and labels.dtype == np.uint8
        assert images.min() >= -1 and images.max() <= 1
    images, labels = next(batches(scenes, start_step=4))
    np.testing.assert_array_equal(images, passed[4][0])
    np.testing.assert_array_equal(labels, passed[4][1])

    class SomeBad(segmentation.Scenes):
        def pair(self, index):
            image, labels = super().pair(index)
            return image, labels[1:] if index in (3, 4, 5) else labels

    bad = SomeBad("digits", "train", 12)
    account = data.BadImages(12, 0.5)
    stream = batches(bad, bad_images=account)
    for _ in range(3):
        next(stream)
    assert list(account.reasons) and "scene 3" in str(account.reasons)
    with pytest.raises(data.BadImagesError, match="its mask 15x16"):
        stream = batches(bad)
        for _ in range(3):
            next(stream)
