"""Resizing by matrices: of the pixels of an image, or of a grid of learned positions.

NumPy computes the matrices, so that a resize is one matrix product per axis, the same on every backend.
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
    """Antialiased resize weights (B, size_out, size_in) for the intervals [start, start + length).

    The filter is widened by the scale when shrinking, has half-pixel centres, is cut at the borders of the
    interval and renormalised there, as in Pillow and torchvision.

    Args:
        start, length: (B,), one interval per image.
        size_in, size_out: sizes before and after.
        interpolation: "bilinear" or "bicubic".
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
    """Keys' cubic convolution kernel; `a` as in Pillow and torchvision's antialiased resize."""
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def resize_grid(cells: Any, old: Sequence[int], new: Sequence[int], ops: Any = np) -> Any:
    """Resize a grid of vectors, bicubic with antialias and half-pixel centres, one axis after the other.

    Weights are those of PyTorch's `interpolate` for images. A constant stays the same, and so does an
    enlarged linear ramp, except within two cells of a border. An axis that keeps its size is left unchanged.

    Args:
        cells: (T, D), row by row; T is the product of `old`.
        old, new: cells along each axis.
        ops: numpy or keras.ops, for the computation.

    Returns:
        (T', D); T' is the product of `new`.
    """
    width = cells.shape[-1]
    for axis, (size_in, size_out) in enumerate(zip(old, new, strict=True)):
        if size_in != size_out:
            whole = np.zeros(1), np.full(1, size_in)
            (weights,) = resize_matrices(*whole, size_in, size_out, "bicubic")
            cells = ops.reshape(cells, (math.prod(new[:axis]), size_in, -1))
            cells = ops.matmul(weights, cells)
    return ops.reshape(cells, (-1, width))
