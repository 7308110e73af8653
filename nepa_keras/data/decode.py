"""Decoding of image files to 8-bit pixels.

Grey, palette, CMYK, 16-bit, transparent (over white) and rotated (EXIF, XMP) images become upright RGB or
grey; of several frames the first is used. simplejpeg, where installed, decodes plain JPEGs; Pillow decodes
the rest, with the same numbers but more slowly.
"""

import io
import math
import os
from pathlib import Path

import numpy as np

from nepa_keras.data.pictures import deep_values, opened, to_eight_bits
from nepa_keras.data.pixels import ImageError, ValueRange, check_size, eight_bits, stated_range
from nepa_keras.files import open_regular

__all__ = ["ImageError", "check_size", "decode_image", "read_file", "stored_values"]

LARGEST_FILE = 1_000_000_000  # bytes; above `LARGEST_IMAGE` uncompressed pixels of 16 bits
_JPEG, _NPY = b"\xff\xd8\xff", b"\x93NUMPY"


def decode_image(
    data: bytes | np.ndarray, channels: int = 3, value_range: ValueRange | None = None
) -> np.ndarray:
    """Pixels (height, width, channels) uint8 of an encoded image, or of an array.

    Args:
        data: content of a file that Pillow reads, or of a .npy file; or pixels (height, width[, channels]),
            uint8, uint16, floats in [0, 1], or with `value_range` any integers or floats.
        channels: 3 for RGB, 1 for grey; any other number only for arrays that have it.
        value_range: (lowest, highest) value that become 0 and 255, such as (0, 4095) for 12-bit data in
            16-bit files; for images of more than 8 bits, by default the whole range of their type.

    Raises:
        ImageError: the image is damaged or too large, or has other channels or values of unknown range.

    Example:
        >>> data.decode_image(np.full((2, 3), 0.5, "float32"), channels=1).shape
        (2, 3, 1)
    """
    if isinstance(data, np.ndarray):
        return _of_array(data, channels, value_range)
    if not data:
        raise ImageError("the file is empty")
    if data.startswith(_NPY):
        return _of_array(_read_npy(data), channels, value_range)
    if data.startswith(_JPEG) and channels in (1, 3):
        pixels = _plain_jpeg(data, channels)
        if pixels is not None:
            return pixels
    if channels not in (1, 3):
        raise ImageError(
            f"image files have 3 channels or 1, not {channels}; store them as .npy arrays"
        )
    with opened(data) as image:
        picture = to_eight_bits(image, "RGB" if channels == 3 else "L", value_range, data)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def stored_values(data: bytes | np.ndarray) -> tuple[np.ndarray, ValueRange | None] | None:
    """Values of an image of more than 8 bits as stored, and the range that its type or file states.

    Returns:
        (height, width[, channels]) integers or floats without alpha, and (lowest, highest), or None for an
        unknown range. For an image of 8 bits, None instead of both.

    Raises:
        ImageError: see `decode_image`.
    """
    if isinstance(data, bytes) and data.startswith(_NPY):
        data = _read_npy(data)
    if isinstance(data, np.ndarray):
        return None if data.dtype == np.uint8 else (data, stated_range(data))
    if data.startswith(_JPEG):
        return None
    with opened(data) as image:
        deep = deep_values(image, data)
    if deep is None:
        return None
    values, stated = deep
    if values.ndim == 3 and values.shape[-1] in (2, 4):  # drop alpha
        values = values[..., :-1]
    return values, stated


def read_file(path: str | Path, offset: int = 0, length: int | None = None) -> bytes:
    """Content of a file, or a part of it; shorter than `length` if the file ends before.

    Raises:
        ImageError: the file is missing, unreadable, not a regular file, or has more than `LARGEST_FILE`
            bytes.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size if length is None else length
            if size > LARGEST_FILE:
                raise ImageError(f"{size:,} bytes are more than {LARGEST_FILE:,}")
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None
    except ValueError as error:  # NUL character in the path
        if isinstance(error, ImageError):
            raise
        raise ImageError(str(error)) from None


def _plain_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """Pixels of a plain JPEG by simplejpeg; None for one that Pillow has to decode."""
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        plain = space == "Gray" or (space == "YCbCr" and channels == 3)
        if not plain or _may_be_turned(data):
            return None
        check_size(width, height)
        return simplejpeg.decode_jpeg(
            data, colorspace="RGB" if channels == 3 else "GRAY", strict=True
        )
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        return None  # Pillow names the fault


def _may_be_turned(data: bytes) -> bool:
    """Check for EXIF or XMP data, or a segment unknown here, before a JPEG's pixels."""
    place = 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xda":  # start of the pixels
            return False
        if marker == b"\xff":  # padding
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == b"\xe1" and (
            data.startswith(b"Exif\0", place + 4) or data.find(b"Orientation", place, end) >= 0
        ):
            return True
        place = end
    return True


def _read_npy(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = header[version != (1, 0)](file)
        held = len(data) - file.tell()
        if (
            dtype.hasobject
            or not dtype.itemsize
            or min(shape, default=0) < 0
            or math.prod(shape) * dtype.itemsize != held
        ):
            raise ImageError(f"damaged .npy file: {shape} of {dtype} are not its {held} bytes")
        flat = np.frombuffer(data, dtype, offset=file.tell()) if held else np.empty(0, dtype)
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    except ImageError:
        raise
    except Exception as error:  # NumPy parses the header as Python source, which fails in many ways
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ImageError(f"damaged .npy file: {reason}") from None


def _of_array(array: np.ndarray, channels: int, value_range: ValueRange | None) -> np.ndarray:
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[-1] != channels:
        first = array.ndim == 3 and array.shape[0] == channels
        raise ImageError(
            f"an array of shape {array.shape} is not (height, width, {channels}), as the model requires"
            f"{'; move its first axis to the end' if first else ''}"
        )
    check_size(pixels.shape[1], pixels.shape[0])
    return eight_bits(pixels, value_range)
