"""Odd files become the pixels a person expects, bad ones a reason; nothing else happens."""

import io
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from nepa_keras.data import ImageError, decode_image
from tests.helpers import corpus

pytestmark = pytest.mark.once
ODD, BAD = corpus.odd_files(), corpus.bad_files()


def test_the_corpus_is_large():
    assert len(ODD) + len(BAD) >= 100


@pytest.mark.parametrize("library", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("name", ODD)
def test_odd_files(name, library, monkeypatch):
    if library == "pillow":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    content, expected, tolerance = ODD[name]
    pixels = decode_image(content)
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("library", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("name", BAD)
def test_damaged_files_are_refused(name, library, monkeypatch):
    """Refused with a reason of one line, and without the memory that the header asks for."""
    if library == "pillow":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    content, words = BAD[name]
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=words or None) as refused:
            decode_image(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(refused.value) and "\n" not in str(refused.value)
    assert peak < 20e6


def test_both_libraries_give_the_same_pixels(monkeypatch):
    """Installing simplejpeg changes no training."""
    jpegs = {name: content for name, (content, _, _) in ODD.items() if name.startswith("jpeg")}
    fast = {(name, c): decode_image(data, c) for name, data in jpegs.items() for c in (1, 3)}
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    for (name, channels), pixels in fast.items():
        np.testing.assert_array_equal(pixels, decode_image(jpegs[name], channels), err_msg=name)


def test_a_flipped_byte_gives_pixels_or_a_reason():
    draw = np.random.default_rng(0).integers
    refused = 0
    for content in (ODD["jpeg_92_2"][0], ODD["png"][0], ODD["gif_animated"][0], ODD["npy"][0]):
        for _ in range(150):
            damaged = bytearray(content)
            damaged[draw(len(damaged))] ^= 1 << draw(8)
            try:
                pixels = decode_image(bytes(damaged))
            except ImageError:
                refused += 1
            else:
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] == 3
    assert refused > 50


def test_any_number_of_channels():
    array = np.random.default_rng(0).integers(0, 65_536, (10, 12, 13), dtype=np.uint16)
    pixels = decode_image(corpus.npy(array), channels=13)
    np.testing.assert_allclose(pixels, array / 257, atol=0.5)
    with pytest.raises(ImageError, match="image files have 3 channels or 1, not 13"):
        decode_image(ODD["png"][0], channels=13)


@pytest.mark.parametrize("before", ["nothing", "comment", "large segment", "fill byte"])
def test_orientation_is_found_wherever_it_stands(before):
    """EXIF data may follow other segments; without it the quick decoder would leave the image on its side."""
    picture = Image.fromarray(np.arange(8 * 24 * 3, dtype=np.uint8).reshape(8, 24, 3))
    exif = picture.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif, quality=95)
    content = file.getvalue()
    segments = {
        "nothing": b"",
        "comment": b"\xff\xfe\x00\x07hello",
        "large segment": b"\xff\xe2\xff\xf0" + bytes(0xFFF0 - 2),
        "fill byte": b"\xff",
    }
    at = content.index(b"\xff\xe1")
    content = content[:at] + segments[before] + content[at:]
    assert decode_image(content).shape == (24, 8, 3)
