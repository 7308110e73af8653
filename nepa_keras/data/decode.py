"""Encoded images to the pixels a person expects, or one sentence why not.

Grey, palette, CMYK, 16-bit, transparent (over white) and EXIF-rotated images become RGB or grey of 8 bits;
of several frames the first is taken. Pixels come from libjpeg-turbo, by simplejpeg where it is installed
and the file is a plain JPEG, else by Pillow, which gives the same numbers more slowly.
"""

import io
import math
from pathlib import Path

import numpy as np

LARGEST_IMAGE = 100_000_000  # pixels; read from the header, before memory is taken


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason."""


def decode_image(data: bytes | np.ndarray, channels: int = 3) -> np.ndarray:
    """Pixels (height, width, channels) uint8 of an encoded image, or of an array.

    Args:
        data: the content of a file that Pillow reads or of a .npy file; or pixels (height, width[, C]),
            uint8, uint16 (scaled), or floats in [0, 1].
        channels: 3 for RGB, 1 for grey; any other number only for arrays that have it.

    Raises:
        ImageError: damaged, absurdly large, or of other channels.
    """
    if isinstance(data, np.ndarray):
        return _of_array(data, channels)
    if not data:
        raise ImageError("the file is empty")
    if data[:6] == b"\x93NUMPY":
        return _of_array(_read_npy(data), channels)
    if data[:3] == b"\xff\xd8\xff" and channels in (1, 3):
        pixels = _plain_jpeg(data, channels)
        if pixels is not None:
            return pixels
    if channels not in (1, 3):
        raise ImageError(
            f"pictures have 3 channels or 1, not {channels}; store them as .npy arrays"
        )
    picture = open_picture(io.BytesIO(data), "RGB" if channels == 3 else "L")
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def open_picture(file, mode: str):
    """A Pillow image "RGB" or "L" of a path or binary file.

    Raises:
        ImageError: as `decode_image`.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            check_size(image.width, image.height)
            image.load()
            return to_eight_bits(image, mode)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them
        reason = str(error).replace("\n", " ") or type(error).__name__
        if "cannot identify" in reason:
            reason = "no image of a known format"
        raise ImageError(reason) from None


def check_size(width: int, height: int) -> None:
    """Raises ImageError where an image has no pixels or more than `LARGEST_IMAGE`."""
    if width < 1 or height < 1:
        raise ImageError(f"it has no pixels ({width}x{height})")
    if width * height > LARGEST_IMAGE:
        raise ImageError(f"{width}x{height} pixels are more than {LARGEST_IMAGE:,}")


def to_eight_bits(image, mode: str):
    """A Pillow image as "RGB" or "L", turned as its EXIF data says.

    Raises:
        ImageError: floating-point pixels, which have no known range.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no known range; save it as PNG")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        pixels = np.asarray(image, "float32")
        image = Image.fromarray(np.clip(np.round(pixels / 257), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def read_file(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        ImageError: it is missing or cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None


def _plain_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """Pixels of a JPEG without surprises; None for one that Pillow has to look at."""
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        plain = space == "Gray" or (space == "YCbCr" and channels == 3)
        if not plain or _has_orientation(data):
            return None
        check_size(width, height)
        return simplejpeg.decode_jpeg(
            data, colorspace="RGB" if channels == 3 else "GRAY", strict=True
        )
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        return None  # Pillow says what is wrong with it


def _has_orientation(data: bytes) -> bool:
    """Whether EXIF data, which may say how to turn the image, comes before the pixels."""
    place = 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xda":  # the pixels
            return False
        if data[place + 4 : place + 10] == b"Exif\0\0":
            return True
        if marker == b"\xff":  # padding
            break
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return b"Exif\0\0" in data[:65_536]


def _read_npy(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = header[version != (1, 0)](file)
    except ValueError as error:
        raise ImageError(f"damaged .npy file: {error}") from None
    held = len(data) - file.tell()
    if dtype.hasobject or not dtype.itemsize or math.prod(shape) * dtype.itemsize != held:
        raise ImageError(f"damaged .npy file: {shape} of {dtype} are not its {held} bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _of_array(array: np.ndarray, channels: int) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] != channels:
        raise ImageError(
            f"an array of shape {array.shape} is not (height, width, {channels}), as the model's channels ask"
        )
    check_size(array.shape[1], array.shape[0])
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return np.round(array / 257).astype(np.uint8)
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        return np.round(array * 255).astype(np.uint8)
    raise ImageError(f"{array.dtype} pixels are not uint8, uint16 or floats in [0, 1]")
