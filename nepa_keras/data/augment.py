"""The recipe's augmentation on uint8 arrays: random resized crop and flip, then normalisation.

Crops of a batch are resized together by two small matrices per image, so that a batch costs a few
milliseconds and the numbers are the same on every backend.
"""

import math

import numpy as np

from nepa_keras.data.order import random_numbers

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10
DRAWS = 2 * _ATTEMPTS + 3  # random numbers for an image


def crop_boxes(seed: int, epoch: int, indices: np.ndarray, height: int, width: int) -> tuple:
    """Boxes of the random resized crop, (N, 4) integers top, left, height, width, and flips (N,)."""
    draws = random_numbers(seed, epoch, np.asarray(indices), DRAWS).tolist()
    boxes, flips = zip(*(crop_box(row, height, width) for row in draws), strict=True)
    return np.array(boxes), np.array(flips)


def crop_box(draws: list[float], height: int, width: int) -> tuple[tuple[int, int, int, int], bool]:
    """Box (top, left, height, width) of the random resized crop of one image, and whether to flip.

    An area share and a log-uniform aspect ratio are drawn up to ten times until the box fits; else
    the largest centred box of a permitted ratio is taken.

    Args:
        draws: `DRAWS` uniform numbers in [0, 1).
        height, width: of the image.
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    flip = draws[-1] < 0.5
    for share, ratio in zip(draws[:_ATTEMPTS], draws[_ATTEMPTS : 2 * _ATTEMPTS], strict=True):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * share)
        aspect = math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            return (int(draws[-3] * (height - h + 1)), int(draws[-2] * (width - w + 1)), h, w), flip
    ratio = width / height
    w = width if ratio <= ASPECT[1] else max(1, round(height * ASPECT[1]))
    h = height if ratio >= ASPECT[0] else max(1, round(width / ASPECT[0]))
    return ((height - h) // 2, (width - w) // 2, h, w), flip


def crop_and_resize(
    pixels: np.ndarray, box: tuple[int, int, int, int], flip: bool, image_size: tuple[int, int]
) -> np.ndarray:
    """Part of an image, resized by bilinear interpolation with antialias; uint8.

    By Pillow, as in torchvision; other numbers of channels than 3 and 1 by matrices.

    Args:
        pixels: uint8 (height, width, channels).
        box: top, left, height, width of the part.
        flip: mirror it from left to right.
        image_size: (height, width) of the result.
    """
    from PIL import Image

    top, left, h, w = box
    part = pixels[top : top + h, left : left + w]
    channels = part.shape[-1]
    if channels in (1, 3):
        picture = Image.fromarray(part if channels == 3 else part[..., 0])
        picture = picture.resize(image_size[::-1], Image.Resampling.BILINEAR)
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(picture).reshape(*image_size, channels)
    rows = resize_matrices(np.zeros(1), np.full(1, h), h, image_size[0])
    columns = resize_matrices(np.zeros(1), np.full(1, w), w, image_size[1])
    resized = np.round(_resize(part[None], rows, columns)[0]).astype(np.uint8)
    return resized[:, ::-1] if flip else resized


def resize_matrices(start: np.ndarray, length: np.ndarray, size_in: int, size_out: int):
    """Bilinear weights with antialias, (N, size_out, size_in), of the intervals start + length.

    A triangle filter, widened by the scale when shrinking, half-pixel centres, cut at the borders of
    the box and normalised there, as Pillow and torchvision do.
    """
    start, length = np.asarray(start)[:, None, None], np.asarray(length)[:, None, None]
    scale = length / size_out
    support = np.maximum(scale, 1.0)
    centre = start + (np.arange(size_out)[None, :, None] + 0.5) * scale
    pixel = np.arange(size_in)[None, None, :]
    weights = np.maximum(1.0 - np.abs(pixel + 0.5 - centre) / support, 0.0)
    weights = weights * ((pixel >= start) & (pixel < start + length))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def _resize(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(N, H, W, C) with rows (N, h, H) and columns (N, w, W) -> (N, h, w, C) float32."""
    n, height, width, channels = images.shape
    x = images.astype(np.float32).reshape(n, height, width * channels)
    x = np.matmul(rows, x).reshape(n, -1, width, channels)
    x = np.matmul(columns, x.transpose(0, 2, 1, 3).reshape(n, width, -1))
    return x.reshape(n, columns.shape[1], -1, channels).transpose(0, 2, 1, 3)


def sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image size given as one side or as both."""
    height, width = (image_size, image_size) if np.ndim(image_size) == 0 else image_size
    return int(height), int(width)


def random_resized_crops(
    images: np.ndarray,
    image_size: int | tuple[int, int],
    *,
    seed: int,
    epoch: int,
    indices: np.ndarray,
) -> np.ndarray:
    """A random crop of every image, resized, flipped half of the time; floats in [-1, 1].

    Args:
        images: uint8 (N, height, width, channels).
        image_size: of the result in pixels, one side or (height, width).
        seed, epoch, indices: of the run, and of each image in the data set; the same three give
            the same crop.

    Returns:
        (N, *image_size, channels) float32.
    """
    _, height, width, _ = images.shape
    boxes, flips = crop_boxes(seed, epoch, indices, height, width)
    new_height, new_width = sides(image_size)
    rows = resize_matrices(boxes[:, 0], boxes[:, 2], height, new_height)
    columns = resize_matrices(boxes[:, 1], boxes[:, 3], width, new_width)
    columns = np.where(flips[:, None, None], columns[:, ::-1], columns)
    return scale(_resize(images, rows, columns))


def normalize(images: np.ndarray, image_size: int | tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (N, height, width, channels) -> float32 in [-1, 1], resized if a size is given.

    Raises:
        ValueError: the images are not uint8 or not four-dimensional.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            "normalize takes uint8 images (N, height, width, channels), got "
            f"{images.dtype} {images.shape}."
        )
    n, height, width, _ = images.shape
    if image_size is None or (height, width) == sides(image_size):
        return scale(images.astype(np.float32))
    new_height, new_width = sides(image_size)
    rows = resize_matrices(np.zeros(1), np.full(1, height), height, new_height)
    columns = resize_matrices(np.zeros(1), np.full(1, width), width, new_width)
    return scale(_resize(images, np.repeat(rows, n, axis=0), np.repeat(columns, n, axis=0)))


def scale(images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Pixels from 0 to 255 as float32 in [-1, 1], written into `out` if given."""
    scaled = np.multiply(images, np.float32(2 / 255), out=out)
    return np.ascontiguousarray(np.subtract(scaled, np.float32(1), out=out))
