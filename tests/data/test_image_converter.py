"""Pictures of any kind in, what a model takes out."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import nepa_keras
from nepa_keras import NepaImageConverter


def picture(height=20, width=30, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_kind_of_image_gives_the_same_numbers(tmp_path):
    array = picture()
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    converter = NepaImageConverter(8)
    expected = converter(array)
    assert expected.shape == (1, 8, 8, 3) and expected.dtype == np.float32
    kinds = [
        path,
        str(path),
        Image.fromarray(array),
        keras.ops.convert_to_tensor(array),
        array.astype("float32") / 255,
        array[None],
        [array],
    ]
    for kind in kinds:
        np.testing.assert_array_equal(converter(kind), expected)
    assert converter([path, array, picture(seed=1)]).shape == (3, 8, 8, 3)


def test_without_resizing_only_the_scale_changes():
    array = picture(8, 8)
    expected = (array.astype("float32") / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_array_equal(NepaImageConverter(8)(array)[0], expected)
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 4.0]
    other = NepaImageConverter(8, mean=mean, std=std)(array)[0]
    expected = (array / 255 - mean) / std
    np.testing.assert_allclose(other, expected, rtol=1e-6, atol=1e-6)


def test_resize_then_crop_keeps_the_aspect_ratio():
    array = np.zeros((20, 40, 3), np.uint8)
    array[:, 10:30] = 255  # the central square
    out = NepaImageConverter(10, resize_to=10)(array)
    np.testing.assert_array_equal(out[0, :, 1:-1], np.ones((10, 8, 3)))
    squeezed = NepaImageConverter(10)(array)
    assert squeezed[0, 5, 0, 0] == -1.0
    assert NepaImageConverter((6, 10), resize_to=12)(array).shape == (1, 6, 10, 3)


def test_exif_grey_and_palette(tmp_path):
    array = picture(10, 20)
    image = Image.fromarray(array)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    expected = NepaImageConverter((20, 10))(np.rot90(array, -1).copy())
    np.testing.assert_array_equal(NepaImageConverter((20, 10))(tmp_path / "turned.png"), expected)
    image.convert("L").save(tmp_path / "grey.png")
    assert NepaImageConverter(8, channels=1)(tmp_path / "grey.png").shape == (1, 8, 8, 1)
    assert NepaImageConverter(8)(tmp_path / "grey.png").shape == (1, 8, 8, 3)
    sixteen = array[..., 0].astype(np.uint16) * 257
    Image.fromarray(sixteen).save(tmp_path / "sixteen.png")
    expected = NepaImageConverter(8)(array[..., 0])
    np.testing.assert_array_equal(NepaImageConverter(8)(tmp_path / "sixteen.png"), expected)
    image.convert("P").save(tmp_path / "palette.png")
    assert NepaImageConverter(8)(tmp_path / "palette.png").shape == (1, 8, 8, 3)


OFFICIAL = [
    {"size": {"height": 224, "width": 224}, "resample": 2},
    {"size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True,
     "crop_size": {"height": 224, "width": 224}},
    {"size": {"height": 235, "width": 235}, "resample": 3, "do_center_crop": True,
     "crop_size": {"height": 224, "width": 224}},
]  # fmt: skip


@pytest.mark.parametrize("settings", OFFICIAL, ids=["resize", "crop", "resize and crop"])
def test_official_files_are_read_and_written(settings, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings})
    )
    converter = NepaImageConverter.from_preset(tmp_path)
    converter.save_to_preset(tmp_path / "again")
    again = NepaImageConverter.from_preset(tmp_path / "again")
    image = picture(300, 400)
    np.testing.assert_array_equal(converter(image), again(image))
    assert again.official_config().items() >= settings.items()


WRONG = {
    "no image": (
        lambda p: NepaImageConverter(8)(p / "text.png"),
        "text.png is not a readable image",
    ),
    "missing": (
        lambda p: NepaImageConverter(8)(p / "none.png"),
        "none.png is not a readable image",
    ),
    "range": (lambda p: NepaImageConverter(8)(np.full((8, 8, 3), 7.0)), r"floats in \[0, 1\]"),
    "shape": (lambda p: NepaImageConverter(8)(np.zeros((3, 8, 8), np.uint8)), r"\(3, 8, 8\)"),
    "none": (lambda p: NepaImageConverter(8)([]), "images is empty"),
    "no pixels": (lambda p: NepaImageConverter(8)(np.zeros((0, 8, 3))), "must have pixels"),
    "floats": (lambda p: NepaImageConverter(8)(Image.new("F", (8, 8))), "floating-point"),
    "wrong kind": (
        lambda p: NepaImageConverter.from_official_config({"resample": []}),
        "of the wrong kind",
    ),
    "interpolation": (lambda p: NepaImageConverter(8, interpolation="cubic"), "bicubic"),
    "crop": (lambda p: NepaImageConverter(8, resize_to=4), "resize_to=4"),
    "std": (lambda p: NepaImageConverter(8, std=0.0), "std"),
    "no file": (lambda p: NepaImageConverter.from_preset(p), "preprocessor_config.json"),
    "rescale": (
        lambda p: NepaImageConverter.from_official_config({"do_rescale": False}),
        "do_rescale must be true",
    ),
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_images_and_arguments_are_refused(problem, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    call, words = WRONG[problem]
    with pytest.raises(ValueError, match=words):
        call(tmp_path)


def test_five_lines_from_a_file_to_labels(tmp_path):
    """The README's example."""
    from tests.helpers import tiny

    backbone = tiny.backbone(image_shape=(8, 8, 3))
    model = nepa_keras.NepaImageClassifier(backbone, 2, class_names=["cat", "dog"])
    nepa_keras.interop.export_huggingface(model, tmp_path / "model")
    Image.fromarray(picture()).save(tmp_path / "cat.jpg")

    classifier = nepa_keras.NepaImageClassifier.from_preset(tmp_path / "model")
    converter = NepaImageConverter.from_preset(tmp_path / "model")
    logits = classifier.predict(converter(tmp_path / "cat.jpg"), verbose=0)
    ((best, probability), _) = classifier.decode_predictions(logits)[0]
    assert best == "cat" and probability == 0.5
