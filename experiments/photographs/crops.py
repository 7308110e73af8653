"""Random square crops of photographs."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from photographs.gathering import Photograph

_ATTEMPTS = 10  # draws of a crop until one is not plain
# Standard deviation of a channel (values 0 to 255); if all are below it, a crop is sky, wall or white paper.
_PLAIN = 12.0
# Smallest crop as a fraction of a region's shorter side; smaller parts of large photographs are blurred
# texture.
_SMALLEST = 0.3
_QUALITY = 95  # JPEG quality; colours are not subsampled


class Region(NamedTuple):
    """A part of a photograph, in pixels."""

    top: int
    left: int
    height: int
    width: int


def shares(photographs: Sequence[Photograph], crops: int) -> list[int]:
    """Number of crops of each photograph: at least one, in proportion to the square root of its area.

    The numbers are rounded by largest remainders, so that they add up to `crops` if that is at least the
    number of photographs.
    """
    weights = np.array([(p.height * p.width) ** 0.5 for p in photographs])
    exact = weights / weights.sum() * max(0, crops - len(photographs))
    counts = np.floor(exact).astype(int)
    rest = max(0, crops - len(photographs)) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return [int(count) + 1 for count in counts]


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random generator that depends only on the seed and the names, not on earlier draws."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def whole(photograph: Photograph) -> Region:
    """Region that covers the whole photograph."""
    return Region(0, 0, photograph.height, photograph.width)


def halves(photograph: Photograph) -> tuple[Region, Region]:
    """Two halves of a photograph, split along its longer side, without a common pixel."""
    height, width = photograph.height, photograph.width
    if width >= height:
        half = width // 2
        return Region(0, 0, height, half), Region(0, half, height, width - half)
    half = height // 2
    return Region(0, 0, half, width), Region(half, 0, height - half, width)


def cut(
    pixels: np.ndarray, region: Region, size: int, count: int, random: np.random.Generator
) -> list[Image.Image]:
    """Random square crops of a region, resized with antialiasing.

    The sides of the crops are log-uniform between max(`size`, 0.3 * shorter side of the region) and that
    shorter side, so that no crop is enlarged. A crop of nearly one colour is drawn again, at most ten times.

    Args:
        pixels: the whole photograph, (height, width, 3) uint8.
        region: region to crop from, at least `size` pixels on either side.
        size: side of the results in pixels.
        count: number of crops.
        random: random generator.
    """
    top, left, height, width = region
    largest = min(height, width)
    smallest = max(size, round(_SMALLEST * largest))
    picture = Image.fromarray(pixels)
    found = []
    for _ in range(count):
        for _ in range(_ATTEMPTS):
            side = round(smallest * (largest / smallest) ** random.random())
            y = top + int(random.integers(height - side + 1))
            x = left + int(random.integers(width - side + 1))
            crop = picture.resize(
                (size, size),
                Image.Resampling.LANCZOS,
                box=(x, y, x + side, y + side),
                reducing_gap=3.0,
            )
            if np.asarray(crop).std((0, 1)).max() >= _PLAIN:
                break
        found.append(crop)
    return found


def save(crop: Image.Image, path) -> None:
    """Write a crop as a JPEG file."""
    crop.save(path, quality=_QUALITY, subsampling=0)
