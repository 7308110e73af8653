"""Data of fewer bits than its files have is said, and mapped by value_range, the same by every way in."""

import json
import re

import numpy as np
import pytest
import shared_flags
from absl import flags
from PIL import Image

from nepa_keras import NepaImageConverter, data
from tests.helpers import corpus
from tests.helpers.scripts import run, run_here

FLAGS = flags.FLAGS
TWELVE_BITS = (0, 4095)
VALUES = np.random.default_rng(0).integers(0, 4096, (12, 16, 3)).astype(np.uint16)
VALUES[0, 0] = 0, 4095, 4095
RIGHT = np.round(VALUES * (255 / 4095)).astype(np.uint8)
GREY, RIGHT_GREY = VALUES[..., :1], np.repeat(RIGHT[..., :1], 3, axis=-1)
OPAQUE = np.full((12, 16, 1), 65_535, np.uint16)
FILES = {
    "grey.png": (corpus.png_16_bit(GREY), RIGHT_GREY),
    "rgb.png": (corpus.png_16_bit(VALUES), RIGHT),
    "rgba.png": (corpus.png_16_bit(np.concatenate([VALUES, OPAQUE], -1)), RIGHT),
    "la.png": (corpus.png_16_bit(np.concatenate([GREY, OPAQUE], -1)), RIGHT_GREY),
    "grey.tif": (corpus.tiff_by_hand(GREY), RIGHT_GREY),
    "rgb.tif": (corpus.tiff_by_hand(VALUES.astype(">u2"), 2), RIGHT),
    "packed.tif": (corpus.tiff_by_hand(VALUES, 2, compressed=True), RIGHT),
    "32_bit.tif": (corpus.tiff_by_hand(GREY.astype(np.uint32)), RIGHT_GREY),
    "float.tif": (corpus.tiff_by_hand(GREY.astype(np.float32)), RIGHT_GREY),
    "uint16.npy": (corpus.npy(VALUES), RIGHT),
    "big_endian.npy": (corpus.npy(VALUES.astype(">u2")), RIGHT),
    "int32.npy": (corpus.npy(VALUES.astype(np.int32)), RIGHT),
    "float.npy": (corpus.npy(VALUES.astype(np.float64)), RIGHT),
}


@pytest.fixture
def folder(tmp_path):
    """The pictures of 16 bits and arrays that have a range of their own."""
    (tmp_path / "images").mkdir()
    for name in ("grey.png", "rgb.png", "rgba.png", "rgb.tif", "uint16.npy"):
        (tmp_path / "images" / name).write_bytes(FILES[name][0])
    return tmp_path / "images"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.once
def test_a_range_is_mapped_in_every_format(name):
    content, right = FILES[name]
    np.testing.assert_array_equal(data.decode_image(content, 3, TWELVE_BITS), right)


@pytest.mark.parametrize("name", ["int32.npy", "float.npy", "float.tif", "32_bit.tif"])
@pytest.mark.once
def test_values_without_a_range_are_refused_with_the_remedy(name):
    with pytest.raises(data.ImageError, match="say with value_range"):
        data.decode_image(FILES[name][0])


@pytest.mark.once
def test_a_range_leaves_pictures_of_8_bits_and_clips_values_beyond():
    picture = corpus.picture()
    content = corpus.save(Image.fromarray(picture), "PNG")
    np.testing.assert_array_equal(data.decode_image(content, 3, TWELVE_BITS), picture)
    beyond = np.array([-5.0, 0, 20, 100, 1e9]).reshape(1, 5, 1)
    assert data.decode_image(beyond, 1, (0, 100)).ravel().tolist() == [0, 0, 51, 255, 255]
    with pytest.raises(data.ImageError, match="not all numbers"):
        data.decode_image(np.array([[0.0, np.nan]]), 1, (0, 100))


def test_readers_survey_copy_and_converter_map_alike(folder, tmp_path):
    source = data.open_source(f"folder:{folder}")
    right = [FILES[name][1] for name in sorted(p.name for p in folder.iterdir())]
    expected = data.normalize(np.stack(right), (12, 16))
    ordered = data.OrderedBatches(source, 5, (12, 16), value_range=TWELVE_BITS)
    np.testing.assert_allclose(next(iter(ordered))[0], expected, atol=1e-6)
    batches = data.AugmentedBatches(
        source, 5, (12, 16), transform=data.Resize(), value_range=TWELVE_BITS
    )
    np.testing.assert_allclose(batches[0], expected[batches.indices(0, 0)], atol=1e-6)
    data.copy_to_records(source, tmp_path / "copy", value_range=TWELVE_BITS)
    copied = data.open_source(f"tfrecord:{tmp_path / 'copy'}")
    for index, pixels in enumerate(right):
        np.testing.assert_array_equal(data.decode_image(copied.read(index)), pixels)
    assert data.inspect_source(copied).ranges == [None] * 5
    converter = NepaImageConverter((12, 16), value_range=TWELVE_BITS)
    np.testing.assert_allclose(converter(sorted(folder.iterdir())), expected, atol=1e-6)
    np.testing.assert_allclose(converter(VALUES), expected[[1]], atol=1e-6)


def test_the_range_is_kept_with_the_converter(tmp_path):
    NepaImageConverter(8, value_range=TWELVE_BITS).save_to_preset(tmp_path)
    assert NepaImageConverter.from_preset(tmp_path).value_range == TWELVE_BITS
    NepaImageConverter(8).save_to_preset(tmp_path)
    assert "value_range" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    for wrong in ((5, 5), (1, 0), (0, np.inf), 3, "ab", (1, 2, 3)):
        with pytest.raises(ValueError, match="value_range must be the lowest and the highest"):
            NepaImageConverter(8, value_range=wrong)


def test_a_converter_says_that_a_file_is_nearly_black(folder):
    with pytest.warns(UserWarning, match=r"grey.png: 1 of 1 images .* value_range=\(0, 4095\)"):
        NepaImageConverter(8)(folder / "grey.png")
    with pytest.raises(ValueError, match="say with value_range which are black"):
        NepaImageConverter(8)(VALUES)


@pytest.mark.parametrize(
    "values, value_range, words",
    [
        (VALUES, None, r"from 0 to 4095, .* nearly black. .* --value_range=0,4095 .*\(0, 4095\)"),
        (VALUES // 4, None, r"from 0 to 1023, .* --value_range=0,1023 "),
        (VALUES + 32_768, None, "of little contrast. .* --value_range=32768,36863 "),
        (VALUES / np.float32(65_535), None, "from 0 to 0.0624857, .*nearly black"),
        (VALUES * 16, None, None),
        (VALUES / np.float32(4095), None, None),
        (VALUES, TWELVE_BITS, None),
        (VALUES * 16, TWELVE_BITS, "beyond value_range 0,4095 become its ends"),
        (VALUES, (0, 65_535), "nearly black"),
        (RIGHT, TWELVE_BITS, "none of the 3 that were looked at has: it changes nothing"),
        (RIGHT, None, None),
    ],
)
@pytest.mark.once
def test_what_is_said_about_the_range_of_a_source(values, value_range, words, tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", values)
    source = data.open_source(f"folder:{tmp_path}")
    note = data.source_range_note(source, value_range)
    assert note is None if words is None else re.search(words, note)
    report = str(data.inspect_source(source, value_range=value_range))
    assert note is None or note in report


@pytest.mark.once
def test_the_doctor_says_it(folder, tmp_path):
    doctor = run_here("inspect_data.py", f"--data=folder:{folder}")
    assert "5 of more than 8 bits, of values from 0 to 4095" in doctor.stdout
    assert doctor.stdout.count("--value_range=0,4095") == 1
    copy = tmp_path / "copy"
    mapped = run_here(
        "inspect_data.py", f"--data=folder:{folder}", "--value_range=0,4095", f"--convert={copy}"
    )
    assert "nearly black" not in mapped.stdout and "5 images in 1 files" in mapped.stdout
    wrong = run_here("inspect_data.py", f"--data=folder:{folder}", "--value_range=5")
    assert "such as 0,4095" in wrong.stdout + wrong.stderr


@pytest.mark.once
def test_the_start_of_a_run_says_it_once(folder, tmp_path):
    flags = [
        f"--data=folder:{folder}", "--preset=nepa_micro_patch7_28", "--noevaluate", "--steps=1",
        "--batch_size=2", "--monitor_images=0", f"--run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    started = run("pretrain.py", *flags)
    assert started.returncode == 0, started.stderr
    assert started.stdout.count("--value_range=0,4095") == 1


@pytest.mark.once
def test_a_flag_file_repeats_the_range():
    shared_flags.define_value_range_flag()
    try:
        FLAGS(["script", "--value_range=-0.125,70000"])
        assert FLAGS.value_range == (-0.125, 70_000.0)
        again = FLAGS["value_range"].serialize()
        FLAGS(["script", again])
        assert FLAGS.value_range == (-0.125, 70_000.0)
    finally:
        delattr(FLAGS, "value_range")
