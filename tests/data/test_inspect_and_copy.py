"""Findings of `inspect_source`, and that a copy holds the same images."""

import hashlib
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from nepa_keras import data
from tests.helpers import source_files
from tests.helpers.source_files import CLASSES, COUNT

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path):
    """Twelve images, one of which is replaced by text."""
    text = source_files.folder(tmp_path)
    (tmp_path / "images" / CLASSES[1] / "01.png").write_bytes(b"no image")
    return text


def test_the_survey_counts_and_describes_the_images(folder):
    found = data.inspect_source(data.open_source(folder))
    assert found.total == COUNT and len(found.sizes) == COUNT - 1
    assert sorted(found.sizes[:, 0]) == [30 + i for i in range(COUNT) if i != 1]
    assert found.formats == {"PNG": COUNT - 1}
    assert found.classes == dict.fromkeys(CLASSES, 4)
    (bad,) = found.bad
    assert bad.endswith("01.png: no image of a known format")
    text = str(found)
    assert "12 images, 12 looked at, 1 bad" in text and "30x40 36x40 41x40" in text
    assert len(data.inspect_source(data.open_source(folder), limit=5).looked_at) == 5


def test_a_copy_holds_the_same_bytes(tmp_path):
    source = data.open_source(source_files.folder(tmp_path))
    manifest = data.copy_to_records(source, tmp_path / "copy", images_per_shard=5)
    assert [shard["images"] for shard in manifest["shards"]] == [5, 5, 2]
    assert json.loads((tmp_path / "copy" / "manifest.json").read_text())["images"] == COUNT
    for shard in manifest["shards"]:
        content = (tmp_path / "copy" / shard["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
    again = data.open_source(f"tfrecord:{tmp_path / 'copy'}", with_labels=True)
    assert [again.read(i) for i in range(COUNT)] == [source.read(i) for i in range(COUNT)]
    np.testing.assert_array_equal(again.labels, source.labels)
    assert again.class_names == CLASSES
    assert not (tmp_path / "unfinished-copy").exists()
    with pytest.raises(ValueError, match="copy exists and is left unchanged"):
        data.copy_to_records(source, tmp_path / "copy")


def test_tensorflow_reads_the_copy(tmp_path):
    """Checksums and examples are those of the format, not of our own reader only."""
    import tensorflow as tf

    source = data.open_source(source_files.folder(tmp_path))
    data.copy_to_records(source, tmp_path / "copy")
    files = sorted(str(f) for f in (tmp_path / "copy").glob("*.tfrecord"))
    kinds = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }
    examples = [tf.io.parse_single_example(r, kinds) for r in tf.data.TFRecordDataset(files)]
    assert [e["image/encoded"].numpy() for e in examples] == [source.read(i) for i in range(COUNT)]
    assert [int(e["image/class/label"]) for e in examples] == source.labels.tolist()


def test_a_resized_copy(tmp_path):
    """Larger images shrink to the side, smaller ones are copied."""
    source = data.open_source(source_files.folder(tmp_path))
    data.copy_to_records(source, tmp_path / "copy", shorter_side=35)
    again = data.open_source(f"tfrecord:{tmp_path / 'copy'}")
    for i in range(COUNT):
        original = data.decode_image(source.read(i))
        height, width, _ = original.shape
        if height <= 35:
            assert again.read(i) == source.read(i)
            continue
        picture = Image.open(io.BytesIO(again.read(i)))
        assert picture.format == "JPEG" and min(picture.size) == 35
        scale = 35 / min(height, width)
        assert picture.size == (max(35, round(width * scale)), max(35, round(height * scale)))


def test_images_in_memory_are_copied_without_loss(tmp_path):
    source = data.open_source("digits", split="test")
    data.copy_to_records(source, tmp_path / "copy", channels=1)
    again = data.open_source(f"tfrecord:{tmp_path / 'copy'}", with_labels=True)
    for i in (0, 100, 359):
        np.testing.assert_array_equal(data.decode_image(again.read(i), 1), source.read(i))
    np.testing.assert_array_equal(again.labels, source.labels)


def test_bad_images_are_left_out_of_a_copy(folder, tmp_path):
    source = data.open_source(folder)
    bad = data.BadImages(COUNT, share=0.1)
    manifest = data.copy_to_records(source, tmp_path / "copy", shorter_side=20, bad_images=bad)
    assert manifest["images"] == COUNT - 1 and "01.png: no image" in manifest["left_out"][0]
    with pytest.raises(data.BadImagesError, match=r"01.png"):
        data.copy_to_records(source, tmp_path / "other", 20, bad_images=data.BadImages(COUNT, 0))
    assert not (tmp_path / "other").exists()


def test_pipes_devices_and_odd_names_are_bad_images_of_one_line(tmp_path):
    """Nothing waits for them or takes their memory; a copy leaves them out, too."""
    text = source_files.folder(tmp_path)
    place = tmp_path / "images" / CLASSES[0]
    os.mkfifo(place / "pipe.jpg")
    (place / "zero.png").symlink_to("/dev/zero")
    (place / "random.npy").symlink_to("/dev/random")
    (place / "tty.jpg").symlink_to("/dev/tty")
    (place / "gone.jpg").symlink_to(place / "nowhere")
    (place / "round.jpg").symlink_to(place / "round.jpg")
    (place / "a\nb.jpg").write_bytes(b"no image")
    (place / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    with open(place / "sparse.jpg", "wb") as file:
        file.truncate(50 * 10**9)
    source = data.open_source(text)
    found = data.inspect_source(source)
    reasons = dict(line.removeprefix(f"{place}/").split(": ", 1) for line in found.bad)
    assert len(found.sizes) == COUNT and len(reasons) == 9
    for name in ("pipe.jpg", "zero.png", "random.npy"):
        assert reasons[name] == "it is a pipe or a device, not a file"
    assert reasons["sparse.jpg"] == "50,000,000,000 bytes are more than 1,000,000,000"
    assert reasons[r"a\nb.jpg"] == "no image of a known format"
    assert reasons[r"caf\xe9.jpg"] == "the file is empty"
    str(found).encode("utf-8")
    manifest = data.copy_to_records(
        source, tmp_path / "copy", bad_images=data.BadImages(len(source), 1.0)
    )
    assert manifest["images"] == COUNT and len(manifest["left_out"]) == 9


def test_damage_to_a_copy_is_found(tmp_path):
    source = data.open_source(source_files.folder(tmp_path))
    data.copy_to_records(source, tmp_path / "copy")
    (file,) = (tmp_path / "copy").glob("*.tfrecord")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = data.open_source(f"tfrecord:{tmp_path / 'copy'}", with_labels=True)
    (number,) = np.flatnonzero(again.labels == -1)
    with pytest.raises(data.ImageError, match="its checksum does not match"):
        again.read(int(number))
    assert len(data.inspect_source(again).bad) == 1
    whole_manifest = (tmp_path / "copy" / "manifest.json").read_text()
    (tmp_path / "copy" / "manifest.json").write_text(whole_manifest[:50])
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        data.open_source(f"tfrecord:{tmp_path / 'copy'}")
    (tmp_path / "copy" / "manifest.json").write_text(whole_manifest)
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"has .* bytes, and .*manifest.json says"):
        data.open_source(f"tfrecord:{tmp_path / 'copy'}")


def test_a_damaged_first_record_is_one_bad_image(tmp_path):
    source = data.open_source(source_files.folder(tmp_path))
    data.copy_to_records(source, tmp_path / "copy")
    (file,) = (tmp_path / "copy").glob("*.tfrecord")
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    found = data.inspect_source(data.open_source(f"tfrecord:{tmp_path / 'copy'}"))
    assert len(found.sizes) == COUNT - 1 and "record 0" in found.bad[0]
