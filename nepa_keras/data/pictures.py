"""Images that Pillow reads, converted to upright 8-bit RGB or grey, transparency over white."""

import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nepa_keras.data.formats import missing_reader, register_formats
from nepa_keras.data.pixels import ImageError, ValueRange, check_size, eight_bits

# Tag numbers, the same in EXIF and TIFF.
_BITS, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274
_SIXTEEN_BITS = (0.0, 65_535.0)
# Largest text or colour profile in a PNG, in bytes after decompression; Pillow refuses more than 1 MB.
_LARGEST_TEXT = 64 * 2**20
# 16-bit colours: raw mode of which Pillow reads only the high bytes -> raw mode that reads the low bytes.
_OTHER = "B" if sys.byteorder == "little" else "L"
_LOW_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", _OTHER))
} | {"LA;16B": "RGBA"}  # all four bytes of grey and alpha


@contextmanager
def opened(data: bytes) -> Iterator[Any]:
    """Pillow image of the content of a file.

    Raises:
        ImageError: the file is damaged, too large or not an image; also for errors while the image is used.
    """
    from PIL import Image, PngImagePlugin

    register_formats()
    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, _LARGEST_TEXT)
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image.width, image.height)
            yield image
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds of errors for damaged files
        reason = str(error).replace("\n", " ") or type(error).__name__
        if "cannot identify" in reason:
            reason = missing_reader(data) or "no image of a known format"
        raise ImageError(reason) from None


def deep_values(image, data: bytes | None = None) -> tuple[np.ndarray, ValueRange | None] | None:
    """Stored values of an image of more than 8 bits, and their range if the file states one.

    Args:
        image: Pillow image, not loaded yet.
        data: content of its file; without it 16-bit colours are reduced to the 8 bits that Pillow reads.

    Returns:
        Values (height, width) or, with alpha or colours, (height, width, 2 to 4); and (lowest, highest), or
        None for 32 bits, whose range is unknown. For an image of 8 bits, None instead of both.
    """
    if data is not None and (raw_mode := _raw_mode(image)) in _LOW_BYTES:
        return _both_bytes(image, data, raw_mode), _SIXTEEN_BITS
    if not image.mode.startswith(("I", "F")):
        return None
    image.load()
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return values, (0.0, 4095.0) if _tag(image, _BITS) == (12,) else _SIXTEEN_BITS
    # Pillow may hold 16 bits of these formats in 32.
    return values, _SIXTEEN_BITS if image.format in ("PNG", "PPM") else None


def to_eight_bits(
    image, mode: str, value_range: ValueRange | None = None, data: bytes | None = None
):
    """Pillow image in mode "RGB" or "L", rotated as its EXIF or else its XMP data says.

    Args:
        image: Pillow image, not loaded yet.
        value_range: see `pixels.eight_bits`; for images of more than 8 bits.
        data: see `deep_values`.

    Raises:
        ImageError: values are of 32 bits and `value_range` is missing.
    """
    from PIL import Image

    deep = deep_values(image, data)
    image.load()
    turn = _turn(image)
    if deep is not None:
        image = _of_values(image, *deep, value_range)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode != mode:
        image = image.convert(mode)
    return image if turn is None else image.transpose(turn)


def _raw_mode(image) -> str | None:
    """Pillow's raw mode of an image that is not loaded yet: how its bytes lie in the file."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return None
    arguments = tiles[0][3]
    return arguments if isinstance(arguments, str) else arguments[0]


def _both_bytes(image, data: bytes, raw_mode: str) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as again:
        again.tile = [_read_as(tile, _LOW_BYTES[raw_mode]) for tile in again.tile]
        again.load()
        low = np.asarray(again)
    if raw_mode == "LA;16B":
        return low.view(">u2")
    image.load()
    return np.asarray(image).astype(np.uint16) << 8 | low


def _read_as(tile, raw_mode: str):
    """Tile of an image with another raw mode, so that Pillow reads its bytes differently."""
    *place, arguments = tile
    other = raw_mode if isinstance(arguments, str) else (raw_mode, *arguments[1:])
    return getattr(type(tile), "_make", tuple)([*place, other])  # older Pillow has plain tuples


def _of_values(image, values: np.ndarray, stated: ValueRange | None, value_range):
    """8-bit Pillow image of the stored values of an image of more bits."""
    from PIL import Image

    alpha = None
    if values.ndim == 3 and values.shape[-1] in (2, 4):
        values, alpha = values[..., :-1], values[..., -1]
    if not (value_range or stated):
        kind = "floating-point" if values.dtype.kind == "f" else "32-bit"
        raise ImageError(
            f"{kind} pixels have no known range; say with value_range which values are black and white"
        )
    pixels = eight_bits(values, value_range or stated)
    if _tag(image, _PHOTOMETRIC) == 0:  # WhiteIsZero
        pixels = 255 - pixels
    transparent = image.info.get("transparency")
    if alpha is None and transparent is not None:
        clear = values == np.asarray(transparent)
        alpha = np.where(clear.all(-1) if clear.ndim == 3 else clear, 0, 255).astype(np.uint8)
    if alpha is not None:
        pixels = np.dstack([pixels, eight_bits(alpha)])
    return Image.fromarray(pixels)


def _tag(image, number: int):
    """Value of a tag of a TIFF; None without it, and for other formats."""
    return getattr(image, "tag_v2", {}).get(number)


def _turn(image):
    """Transpose operation that makes an image upright, by EXIF or else XMP; None if there is none."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(_ORIENTATION)
    except (
        ArithmeticError,
        LookupError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
        struct.error,
    ):
        return None  # damaged EXIF data; the pixels may be intact
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation)
