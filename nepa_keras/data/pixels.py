"""Pixels of 8 bits from whatever values an image stores, within bounds on its size."""

import math

import numpy as np

LARGEST_IMAGE = 100_000_000  # pixels; read from the header, before memory is taken
LONGEST_SIDE = (
    65_535  # of a JPEG; a PNG one pixel wide and longer than that costs a second per 5 million
)

ValueRange = tuple[float, float]


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason."""


def check_size(width: int, height: int) -> None:
    """Raises ImageError where an image has no pixels, more than `LARGEST_IMAGE`, or an absurd side."""
    if width < 1 or height < 1:
        raise ImageError(f"it has no pixels ({width}x{height})")
    if width * height > LARGEST_IMAGE:
        raise ImageError(f"{width}x{height} pixels are more than {LARGEST_IMAGE:,}")
    if max(width, height) > LONGEST_SIDE:
        raise ImageError(
            f"{width}x{height} pixels: a side is longer than {LONGEST_SIDE:,}; cut it into tiles"
        )


def checked_range(value_range: ValueRange | None) -> ValueRange | None:
    """The (low, high) that was given, as floats.

    Raises:
        ValueError: it is not two finite numbers in ascending order.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"value_range is the lowest and the highest value, such as (0, 4095), not {value_range!r}."
        )
    return low, high


def stated_range(values: np.ndarray) -> ValueRange | None:
    """The range that the type of stored values stands for: 0 to 65,535 of uint16, 0 to 1 of floats."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return 0.0, 65_535.0
    return (0.0, 1.0) if values.dtype.kind == "f" else None


def eight_bits(values: np.ndarray, value_range: ValueRange | None = None) -> np.ndarray:
    """uint8 of the same shape.

    Args:
        values: uint8, which stays as it is; or integers or floats of more bits.
        value_range: (low, high) that become 0 and 255, values beyond it clipped; default 0 to 65,535 of
            uint16, 0 to 1 of floats, which must lie in it.

    Raises:
        ImageError: values that are no finite numbers, or without a known range.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise ImageError(f"{values.dtype} pixels are not uint8, uint16 or floats in [0, 1]")
    lowest, highest = values.min(), values.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ImageError(f"{values.dtype} pixels that are not all numbers (NaN or infinite)")
    bounds = value_range or stated_range(values)
    outside = bounds is None or lowest < bounds[0] or highest > bounds[1]
    if bounds is None or (value_range is None and outside):
        raise ImageError(
            f"{values.dtype} pixels from {lowest:.6g} to {highest:.6g} are not uint8, uint16 or floats in "
            "[0, 1]; say with value_range which values are black and white"
        )
    low, high = bounds
    floats = values.astype(np.result_type(values, np.float32))
    return np.clip(np.round((floats - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
