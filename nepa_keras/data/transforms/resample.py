"""Antialiased resizing with Pillow's filters, and scaling of pixels from 0..255 to -1..1.

Batches of images of one size are resized by two small matrices per image, in a few milliseconds; single
images by `fast_resize` where numba is installed, else by Pillow. Results are the same on every backend.
"""

import functools

import numpy as np

from nepa_keras.resampling import resize_matrices

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # radius, in pixels of the smaller image


def check_interpolation(interpolation: str) -> str:
    """Check an interpolation and return its name.

    Raises:
        ValueError: it is neither "bilinear" nor "bicubic".
    """
    if interpolation not in _SUPPORT:
        raise ValueError(
            f"interpolation must be one of {', '.join(_SUPPORT)}, got {interpolation!r}."
        )
    return interpolation


@functools.cache
def _compiled():
    """Module `fast_resize`; None without numba."""
    try:
        from nepa_keras.data.transforms import fast_resize
    except ImportError:
        return None
    return fast_resize


def resize(
    pixels: np.ndarray,
    image_size: tuple[int, int],
    interpolation: str = "bilinear",
    box: tuple[int, int, int, int] | None = None,
    flip: bool = False,
) -> np.ndarray:
    """Resize an image or a part of it; uint8 (*image_size, channels).

    The result is Pillow's (and torchvision's); images of other than 3 or 1 channels are resized by matrices.

    Args:
        pixels: uint8 (height, width, channels).
        image_size: (height, width) of the result.
        interpolation: "bilinear" or "bicubic", with antialias.
        box: top, left, height, width of the part, inside the image; None for the whole image.
        flip: whether to mirror it from left to right.
    """
    top, left, h, w = box = _inside(box, pixels)
    if _is_compiled_for(pixels):
        out = np.empty((*image_size, 3), np.uint8)
        _compiled().resize_part(pixels, *box, flip, interpolation == "bicubic", out, False)
        return out
    resized = _resized(pixels[top : top + h, left : left + w], image_size, interpolation)
    return resized[:, ::-1] if flip else resized


def resize_and_scale(
    pixels: np.ndarray,
    out: np.ndarray,
    interpolation: str = "bilinear",
    box: tuple[int, int, int, int] | None = None,
    flip: bool = False,
) -> None:
    """`resize` to the size of `out`, float32 or uint8 (height, width, channels), and `scale` into it.

    Raises:
        ValueError: `out` has another type or number of channels, or the part is not inside the image.
    """
    if (
        out.dtype not in (np.float32, np.uint8)
        or out.ndim != 3
        or out.shape[-1] != pixels.shape[-1]
    ):
        raise ValueError(
            f"out must be float32 or uint8 (height, width, {pixels.shape[-1]}), got {out.dtype} {out.shape}."
        )
    box = _inside(box, pixels)
    if _is_compiled_for(pixels) and out.flags.c_contiguous:
        floats = out.dtype == np.float32
        _compiled().resize_part(pixels, *box, flip, interpolation == "bicubic", out, floats)
    else:
        scale(resize(pixels, out.shape[:2], interpolation, box, flip), out)


def _is_compiled_for(pixels: np.ndarray) -> bool:
    return pixels.shape[-1] == 3 and pixels.flags.c_contiguous and _compiled() is not None


def _inside(box, pixels: np.ndarray) -> tuple:
    height, width = pixels.shape[:2]
    if box is None:
        return 0, 0, height, width
    top, left, h, w = box
    if not (0 <= top < top + h <= height and 0 <= left < left + w <= width):
        raise ValueError(f"The part {box} is not inside an image of {height}x{width} pixels.")
    return top, left, h, w


def _resized(pixels: np.ndarray, image_size: tuple[int, int], interpolation: str) -> np.ndarray:
    from PIL import Image

    h, w, channels = pixels.shape
    if channels in (1, 3):
        picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
        picture = picture.resize(image_size[::-1], Image.Resampling[interpolation.upper()])
        return np.asarray(picture).reshape(*image_size, channels)
    rows = resize_matrices(np.zeros(1), np.full(1, h), h, image_size[0], interpolation)
    columns = resize_matrices(np.zeros(1), np.full(1, w), w, image_size[1], interpolation)
    resized = resize_arrays(pixels[None], rows, columns)[0]
    return np.clip(np.round(resized), 0, 255).astype(np.uint8)


def resize_arrays(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Resize images by matrices: each output row or column is a weighted sum of input ones.

    Args:
        images: (B, height, width, channels).
        rows: (B, new height, height).
        columns: (B, new width, width).

    Returns:
        float32 (B, new height, new width, channels).
    """
    n, height, width, channels = images.shape
    x = images.astype(np.float32).reshape(n, height, width * channels)
    x = np.matmul(rows, x).reshape(n, -1, width, channels)
    x = np.matmul(columns, x.transpose(0, 2, 1, 3).reshape(n, width, -1))
    return x.reshape(n, columns.shape[1], -1, channels).transpose(0, 2, 1, 3)


def sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Size (height, width) of an image, given as one side or as both."""
    if not isinstance(image_size, tuple | list):
        image_size = (image_size, image_size)
    height, width = image_size
    return int(height), int(width)


def normalize(
    images: np.ndarray,
    image_size: int | tuple[int, int] | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Map uint8 (B, height, width, channels) to float32 in [-1, 1], resized if a size is given.

    Raises:
        ValueError: the images are not uint8, or the array is not four-dimensional.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            "normalize takes uint8 images (B, height, width, channels), got "
            f"{images.dtype} {images.shape}."
        )
    n, height, width, _ = images.shape
    if image_size is None or (height, width) == sides(image_size):
        return scale(images.astype(np.float32))
    new_height, new_width = sides(image_size)
    rows = resize_matrices(np.zeros(1), np.full(1, height), height, new_height, interpolation)
    columns = resize_matrices(np.zeros(1), np.full(1, width), width, new_width, interpolation)
    resized = resize_arrays(images, np.repeat(rows, n, axis=0), np.repeat(columns, n, axis=0))
    return scale(np.clip(resized, 0, 255))


def scale(images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Pixels from 0 to 255 as float32 in [-1, 1], written into `out` if given; unscaled if `out` is uint8."""
    if out is not None and out.dtype == np.uint8:
        out[...] = images
        return out
    scaled = np.multiply(images, np.float32(2 / 255), out=out)
    return np.ascontiguousarray(np.subtract(scaled, np.float32(1), out=out))
