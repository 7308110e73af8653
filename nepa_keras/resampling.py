"""Weights that bring a grid to another size: of pixels of an image, or of learned positions.

They are made by NumPy, so that a resize is a matrix product along each axis, the same on every backend.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def resize_matrices(
    start: np.ndarray,
    length: np.ndarray,
    size_in: int,
    size_out: int,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Weights with antialias, (N, size_out, size_in), of the intervals start + length.

    The filter is widened by the scale when shrinking, has half-pixel centres, is cut at the borders of the
    interval and normalised there, as Pillow and torchvision do.
    """
    start, length = np.asarray(start)[:, None, None], np.asarray(length)[:, None, None]
    scale = length / size_out
    centre = start + (np.arange(size_out)[None, :, None] + 0.5) * scale
    pixel = np.arange(size_in)[None, None, :]
    distance = np.abs(pixel + 0.5 - centre) / np.maximum(scale, 1.0)
    weights = _cubic(distance) if interpolation == "bicubic" else np.maximum(1.0 - distance, 0.0)
    weights = weights * ((pixel >= start) & (pixel < start + length))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic convolution of a distance; a as Pillow and torchvision's antialiased resize have it."""
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def resize_grid(cells: Any, old: Sequence[int], new: Sequence[int], ops: Any = np) -> Any:
    """Vectors of the cells of a grid, row by row, on a grid of another size.

    Bicubic with antialias and half-pixel centres along each axis in turn, as PyTorch's `interpolate` does it
    for images. A constant stays the same, and so does a ramp that is enlarged, but for what lies within two
    cells of a border. An axis that keeps its size is not touched.

    Args:
        cells: (T, D), T the product of `old`.
        old, new: cells along each axis.
        ops: what computes it, numpy or keras.ops.

    Returns:
        (T', D), T' the product of `new`.
    """
    width = cells.shape[-1]
    for axis, (size_in, size_out) in enumerate(zip(old, new, strict=True)):
        if size_in != size_out:
            whole = np.zeros(1), np.full(1, size_in)
            (weights,) = resize_matrices(*whole, size_in, size_out, "bicubic")
            cells = ops.reshape(cells, (math.prod(new[:axis]), size_in, -1))
            cells = ops.matmul(weights, cells)
    return ops.reshape(cells, (-1, width))
