"""The recipe's augmentation on uint8 arrays: random resized crop and flip, then normalisation.

Crops of a batch are resized together by two small matrices per image, so that a batch costs a few
milliseconds and the numbers are the same on every backend.
"""

import numpy as np

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def _random_numbers(seed: int, epoch: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers (len(indices), count) in [0, 1): a pure function of seed, epoch and index.

    SplitMix64 over a counter per example, so that no generator has to be wound to a position.
    """
    key = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    counter = indices.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(
        count, dtype=np.uint64
    )
    x = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def crop_boxes(seed: int, epoch: int, indices: np.ndarray, height: int, width: int) -> tuple:
    """Boxes of the random resized crop, (N, 4) integers top, left, height, width, and flips (N,).

    An area share and a log-uniform aspect ratio are drawn up to ten times until the box fits; else
    the largest centred box of a permitted ratio is taken.
    """
    draws = _random_numbers(seed, epoch, np.asarray(indices), 2 * _ATTEMPTS + 3)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * draws[:, :_ATTEMPTS])
    low, high = np.log(ASPECT)
    aspect = np.exp(low + (high - low) * draws[:, _ATTEMPTS : 2 * _ATTEMPTS])
    w = np.round(np.sqrt(area * aspect)).astype(int)
    h = np.round(np.sqrt(area / aspect)).astype(int)
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.argmax(axis=1)
    rows = np.arange(len(draws))
    ratio = width / height
    whole_w = width if ratio <= ASPECT[1] else round(height * ASPECT[1])
    whole_h = height if ratio >= ASPECT[0] else round(width / ASPECT[0])
    found = fits.any(axis=1)
    w = np.where(found, w[rows, first], whole_w)
    h = np.where(found, h[rows, first], whole_h)
    random_top = np.floor(draws[:, -3] * (height - h + 1)).astype(int)
    random_left = np.floor(draws[:, -2] * (width - w + 1)).astype(int)
    top = np.where(found, random_top, (height - h) // 2)
    left = np.where(found, random_left, (width - w) // 2)
    return np.stack([top, left, h, w], axis=1), draws[:, -1] < 0.5


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
    return _scale(_resize(images, rows, columns))


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
        return _scale(images.astype(np.float32))
    new_height, new_width = sides(image_size)
    rows = resize_matrices(np.zeros(1), np.full(1, height), height, new_height)
    columns = resize_matrices(np.zeros(1), np.full(1, width), width, new_width)
    return _scale(_resize(images, np.repeat(rows, n, axis=0), np.repeat(columns, n, axis=0)))


def _scale(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images * np.float32(2 / 255) - np.float32(1))
