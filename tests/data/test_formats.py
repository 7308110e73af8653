"""Formats beside JPEG and PNG: AVIF, HEIC and what it needs, HDF5 files of pixels of any range."""

import sys
import types

import h5py
import numpy as np
import pytest
from PIL import Image, features

from nepa_keras import data
from nepa_keras.data import formats
from tests.helpers.source_files import png

pytestmark = pytest.mark.once

# The first bytes of pictures of iPhones and of others that Pillow does not know.
HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(32)


def test_avif_is_read_upright(tmp_path):
    """Written by Pillow itself, from 11.3 on; the size of the test's environment."""
    assert features.check("avif"), "constraints.txt pins a Pillow with AVIF"
    pixels = np.zeros((40, 60, 3), "uint8")
    pixels[:20, :, 0], pixels[:, 30:, 1] = 200, 180
    turned = Image.Exif()
    turned[274] = 6  # a quarter to the right
    Image.fromarray(pixels).save(tmp_path / "a.avif", quality=95)
    Image.fromarray(pixels).save(tmp_path / "b.avif", quality=95, exif=turned)
    source = data.open_source(f"folder:{tmp_path}")
    straight, quarter = (data.decode_image(source.read(i)) for i in range(2))
    assert straight.shape == (40, 60, 3) and quarter.shape == (60, 40, 3)
    assert np.abs(straight.astype(int) - pixels).mean() < 4
    assert np.abs(quarter.astype(int) - np.rot90(pixels, -1)).mean() < 4
    assert data.inspect_source(source).formats == {"AVIF": 2} and source.notes == ()


def test_heic_names_what_reads_it_and_is_read_by_that(tmp_path, monkeypatch):
    """A stand-in for pillow-heif, which the test environment lacks, opens a PNG under its name."""
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.heic").write_bytes(HEIC)
    (tmp_path / "c.jpg").write_bytes(HEIC)  # as telephones' exports are often named
    formats.register_formats.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    source = data.open_source(f"folder:{tmp_path}")
    assert (
        len(source) == 2 and "1 .heic; such as b.heic. pip install pillow-heif" in source.notes[0]
    )
    with pytest.raises(data.ImageError, match=r"in HEIC, .* do not read: pip install pillow-heif"):
        data.decode_image(source.read(1))
    assert "pip install 'pillow>=11.3'" in formats.missing_reader(HEIC.replace(b"heic", b"avif"))
    assert formats.missing_reader(png(0)) is None

    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    stand_in = types.ModuleType("pillow_heif")
    stand_in.register_heif_opener = lambda: Image.register_extension("PNG", ".heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    formats.register_formats.cache_clear()
    source = data.open_source(f"folder:{tmp_path}")
    assert len(source) == 3 and source.notes == ()
    formats.register_formats.cache_clear()


def h5(root, **sets):
    with h5py.File(root / "a.h5", "w") as file:
        for name, values in sets.items():
            file.create_dataset(name.replace("__", "/"), data=values)
    return f"h5:{root / 'a.h5'}"


def test_pixels_of_12_bits_in_an_hdf5_file(tmp_path):
    deep = np.random.default_rng(0).integers(0, 4096, (6, 8, 9)).astype("uint16")
    text = h5(tmp_path, images=deep, y=[0, 1, 0, 2, 1, 0], other=np.zeros(6))
    source = data.open_source(text, with_labels=True)
    assert len(source) == 6 and source.labels.tolist() == [0, 1, 0, 2, 1, 0]
    assert source.name(2).endswith("a.h5, images, row 2")
    assert "--value_range=0,4095" in data.source_range_note(source)
    batches = data.OrderedBatches(source, 6, (8, 9), channels=1, value_range=(0, 4095))
    ((found, _),) = batches
    expected = np.round(deep / np.float32(4095) * 255) / 127.5 - 1
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_data_sets_are_chosen_and_may_hold_encoded_pictures(tmp_path):
    encoded = np.empty(3, object)
    encoded[:] = [np.frombuffer(png(i), "uint8") for i in range(3)]
    colours = np.zeros((3, 4, 4, 3), "uint8")
    text = h5(tmp_path, train__x=colours, train__label=[0, 1, 1], test__x=colours[:2])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        kind = h5py.vlen_dtype(np.uint8)
        file.create_dataset("jpegs", data=encoded, dtype=kind)
        file.create_dataset("kinds", data=["b", "a", "b"])
        file.create_dataset("tags", data=[[1, 0], [1, 1], [0, 0]])
        file.create_dataset("packed", data=np.zeros((9, 4, 4), "uint8"), chunks=(4, 4, 4))
        file.create_dataset("first", data=np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match=r"several data sets of images, .*name one by --image_col"):
        data.open_source(text)
    source = data.open_source(text, image_column="train/x", with_labels=True)
    assert source.labels.tolist() == [0, 1, 1] and data.decode_image(source.read(0)).shape[-1] == 3
    options = {"image_column": "jpegs", "with_labels": True}
    source = data.open_source(text, **options, label_column="kinds")
    assert source.read(2) == png(2) and source.class_names == ("a", "b")
    assert data.open_source(text, **options, label_column="tags", multi_label=True).multi_label
    assert list(data.open_source(text, image_column="packed").chunks) == [0, 4, 8, 9]
    for column, words in (
        ("first", r"shape \(2, 3, 8, 8\): channels come last here"),
        ("tags", r"has the shape \(3, 2\) of int64; images are"),
        ("train/y", r"no column train/y \(image_column"),
    ):
        with pytest.raises(ValueError, match=words):
            data.open_source(text, image_column=column)
    with pytest.raises(ValueError, match="kinds has 3 labels for 9 images"):
        data.open_source(text, image_column="packed", label_column="kinds", with_labels=True)
    (tmp_path / "b.h5").write_bytes(b"no HDF5 at all" * 9)
    with pytest.raises(ValueError, match=r"b.h5 is damaged or not an HDF5 file"):
        data.open_source(f"h5:{tmp_path / 'b.h5'}")
