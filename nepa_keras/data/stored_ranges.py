"""Check of the values that images of more than 8 bits hold against the range from which they are mapped."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from nepa_keras.data.decode import ImageError, stored_values
from nepa_keras.data.pixels import ValueRange
from nepa_keras.data.sources.base import ImageSource

_LOOKED_AT = 16  # images of a source, evenly spread
_THREADS = 4
_LEAST = 0.5  # values that fill less than this part of a range are taken to have another one


class StoredRange(NamedTuple):
    """Lowest and highest value of an image of more than 8 bits, and the range of its type or file."""

    low: float
    high: float
    stated: ValueRange | None


def stored_range(content: bytes | np.ndarray) -> StoredRange | None:
    """Stored range of an image; None for an image of 8 bits.

    Raises:
        ImageError: see `decode_image`.
    """
    stored = stored_values(content)
    if stored is None:
        return None
    values, stated = stored
    return StoredRange(float(values.min()), float(values.max()), stated)


def range_note(
    found: Sequence[StoredRange | None], value_range: ValueRange | None = None
) -> str | None:
    """Sentence for values of images that fit their range badly; None if all is well.

    Args:
        found: range of each image, None for an image of 8 bits.
        value_range: the range that is given to `decode_image`.
    """
    deep = [each for each in found if each is not None]
    if not deep:
        if value_range is None:
            return None
        return (
            f"value_range {_text(value_range)} is for images of more than 8 bits, which none of the "
            f"{len(found)} that were looked at has: it changes nothing."
        )
    bounds = value_range or Counter(each.stated for each in deep).most_common(1)[0][0]
    if value_range is None:
        deep = [each for each in deep if each.stated == bounds]
    low, high = min(each.low for each in deep), max(each.high for each in deep)
    if bounds is None or low == high:
        return None  # images of unknown range are refused when decoded; one of constant value tells nothing
    what = f"{len(deep)} of {len(found)} images that were looked at hold values from {low:.6g} to {high:.6g}"
    if value_range is not None and (low < bounds[0] or high > bounds[1]):
        return f"{what}; those beyond value_range {_text(bounds)} become its ends."
    if high - low >= _LEAST * (bounds[1] - bounds[0]):
        return None
    seen = "nearly black" if high < sum(bounds) / 4 else "of little contrast"
    better = _likely_range(low, high)
    return (
        f"{what}, and {_text(bounds)} become black and white, so they are {seen}. If {better[0]:.6g} to "
        f"{better[1]:.6g} is meant, give it: --value_range={_text(better)} of the scripts, "
        f"value_range=({better[0]:.6g}, {better[1]:.6g}) in Python."
    )


def source_range_note(source: ImageSource, value_range: ValueRange | None = None) -> str | None:
    """`range_note` of 16 images of a source, without those that cannot be read.

    Args:
        source: the images.
        value_range: the range that is given to `decode_image`.
    """

    def look(index: int) -> list[StoredRange | None]:
        try:
            return [stored_range(source.read(index))]
        except ImageError:
            return []

    indices = np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(int)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = [each for some in pool.map(look, indices.tolist()) for each in some]
    return range_note(found, value_range) if found else None


def _likely_range(low: float, high: float) -> ValueRange:
    """Range of the fewest bits that whole numbers fill at least half of; else the range found."""
    top = 2.0 ** int(high).bit_length() - 1
    whole = low >= 0 and low.is_integer() and high.is_integer()
    return (0.0, top) if whole and high - low >= _LEAST * top else (low, high)


def _text(value_range: ValueRange) -> str:
    return ",".join(f"{value:.6g}" for value in value_range)
