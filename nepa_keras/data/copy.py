"""Copy of a source as TFRecord shards with a manifest; images can be resized once on the way.

FOLDER/train-00000-of-00010.tfrecord    examples: image/encoded, image/class/label, image/filename
FOLDER/manifest.json                    counts, classes, and size and SHA-256 of each shard
"""

import functools
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from nepa_keras.data.bad_images import BadImages
from nepa_keras.data.decode import ImageError, decode_image, stored_values
from nepa_keras.data.pixels import ValueRange, checked_range
from nepa_keras.data.reading import threads_for
from nepa_keras.data.sources.base import ImageSource
from nepa_keras.data.sources.records import MANIFEST, example_class, masked_crc
from nepa_keras.files import replacing

_AT_ONCE = 256  # images in memory at a time
_QUALITY = 95


def copy_to_records(
    source: ImageSource,
    folder: str | Path,
    shorter_side: int | None = None,
    channels: int = 3,
    images_per_shard: int = 10_000,
    bad_images: BadImages | None = None,
    threads: int | None = None,
    value_range: ValueRange | None = None,
) -> dict:
    """Copy a source to a new folder, which `open_source("tfrecord:FOLDER")` reads.

    Until it is complete the copy lies in `unfinished-FOLDER`. Images that cannot be read are left out.

    Args:
        source: result of `open_source`.
        folder: folder to create; must not exist.
        shorter_side: length in pixels of the shorter side to which larger images are reduced (bicubic with
            antialias, then JPEG of quality 95); None copies the encoded images unchanged.
        channels: channels of resized images.
        images_per_shard: images in each file.
        bad_images: record of images that cannot be read; default a budget of 0.1 %.
        threads: threads that decode and encode; default one per core.
        value_range: (lowest, highest) value that become black and white, for images of more than 8 bits,
            which are then copied as 8 bits; see `decode_image`.

    Returns:
        The manifest.

    Raises:
        ValueError: the folder exists.
        ImportError: google-crc32c or protobuf is missing.
        BadImagesError: more images are bad than the budget allows.
    """
    folder = Path(folder).expanduser()
    if folder.exists():
        raise ValueError(f"{folder} exists and is left unchanged; name another folder.")
    masked_crc(b"")  # raises now, not after the work, if a package is missing
    bad_images = bad_images or BadImages(len(source))
    encoded = functools.partial(
        _encoded,
        shorter_side=shorter_side,
        channels=channels,
        value_range=checked_range(value_range),
    )
    examples = _examples(source, encoded, bad_images, threads or threads_for(source))
    shard_count = -(-len(source) // images_per_shard)
    shards = []
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as unfinished:
        unfinished.mkdir()
        for number in range(shard_count):
            name = f"train-{number:05}-of-{shard_count:05}.tfrecord"
            held = min(images_per_shard, len(source) - number * images_per_shard)
            shards.append(_write_shard(unfinished / name, islice(examples, held)))
        manifest = {
            "format": "tfrecord",
            "images": sum(shard["images"] for shard in shards),
            "shorter_side": shorter_side,
            "class_names": source.class_names,
            "left_out": sorted(bad_images.reasons.values()),
            "shards": shards,
        }
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _examples(source, encoded, bad_images, threads) -> Iterator[bytes | None]:
    """Examples of `encoded(content)` in the order of the source; None for an image that cannot be read."""

    def make(index: int) -> bytes | None:
        try:
            image = encoded(source.read(index))
        except ImageError as error:
            bad_images.add(index, source.name(index), str(error))
            return None
        features = example_class()()
        values = features.features.feature
        values["image/encoded"].bytes_list.value.append(image)
        values["image/filename"].bytes_list.value.append(os.fsencode(source.name(index)))
        if source.labels is not None:
            label = source.labels[index]
            numbers = np.flatnonzero(label) if source.multi_label else [label]
            values["image/class/label"].int64_list.value.extend(map(int, numbers))
        return features.SerializeToString()

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(source), _AT_ONCE):
            yield from pool.map(make, range(start, min(start + _AT_ONCE, len(source))))


def _encoded(
    content: bytes | np.ndarray,
    shorter_side: int | None,
    channels: int,
    value_range: ValueRange | None,
) -> bytes:
    """Content of an image for the copy: a smaller JPEG if it is resized, else unchanged or lossless."""
    from PIL import Image

    pixels = decode_image(content, channels, value_range)
    height, width, _ = pixels.shape
    shrinks = shorter_side is not None and shorter_side < min(height, width)
    mapped = value_range is not None and stored_values(content) is not None
    if not shrinks and not mapped and isinstance(content, bytes):
        return content
    file = io.BytesIO()
    if channels not in (1, 3):
        if shrinks:
            raise ImageError(f"images of {channels} channels cannot be resized in a copy")
        np.save(file, pixels)
        return file.getvalue()
    picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    if shrinks:
        scale = shorter_side / min(height, width)
        size = [max(shorter_side, round(side * scale)) for side in picture.size]
        picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=_QUALITY)
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def _write_shard(path: Path, examples: Iterator[bytes | None]) -> dict:
    images, checksum = 0, hashlib.sha256()
    with open(path, "wb") as file:
        for example in examples:
            if example is None:
                continue
            length = struct.pack("<Q", len(example))
            for piece in (length, masked_crc(length), example, masked_crc(example)):
                file.write(piece)
                checksum.update(piece)
            images += 1
        file.flush()
        os.fsync(file.fileno())
    size = path.stat().st_size
    return {"file": path.name, "images": images, "bytes": size, "sha256": checksum.hexdigest()}
