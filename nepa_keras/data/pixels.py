"""8-bit pixels from the values that an image stores, and limits on its size."""

import math

import numpy as np

LARGEST_IMAGE = 100_000_000  # pixels; checked in the header, before memory is allocated
LONGEST_SIDE = (
    65_535  # limit of JPEG; a PNG one pixel wide takes a second per 5 million pixels beyond it
)

ValueRange = tuple[float, float]


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason.

    A ValueError, raised by sources and decoders.
    """


def check_size(width: int, height: int) -> None:
    """Check the size of an image.

    Raises:
        ImageError: there are no pixels, more than `LARGEST_IMAGE`, or a side is too long.
    """
    if width < 1 or height < 1:
        raise ImageError(f"it has no pixels ({width}x{height})")
    if width * height > LARGEST_IMAGE:
        raise ImageError(f"{width}x{height} pixels are more than {LARGEST_IMAGE:,}")
    if max(width, height) > LONGEST_SIDE:
        raise ImageError(
            f"{width}x{height} pixels: a side is longer than {LONGEST_SIDE:,}; cut it into tiles"
        )


def checked_range(value_range: ValueRange | None) -> ValueRange | None:
    """Check a (lowest, highest) value range and return it as floats.

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
            f"value_range must be the lowest and the highest value, such as (0, 4095), not {value_range!r}."
        )
    return low, high


def stated_range(values: np.ndarray) -> ValueRange | None:
    """Range that the type of stored values implies: 0 to 65,535 for uint16, 0 to 1 for floats; else None."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return 0.0, 65_535.0
    return (0.0, 1.0) if values.dtype.kind == "f" else None


def eight_bits(values: np.ndarray, value_range: ValueRange | None = None) -> np.ndarray:
    """Map values to uint8, in the same shape.

    Args:
        values: uint8, which is returned unchanged; or integers or floats of more bits.
        value_range: (lowest, highest) value that become 0 and 255, others are clipped; default 0 to 65,535
            for uint16, 0 to 1 for floats, which must lie in it.

    Raises:
        ImageError: values are not finite, or their range is unknown.
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
