"""Random parts of photographs as small square pictures."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from photographs.gathering import Photograph

_ATTEMPTS = 10
# Standard deviation (of 255) of a channel; where all are below, a crop is sky, wall or white paper.
_PLAIN = 12.0
_SMALLEST = (
    0.3  # of a region's shorter side: smaller parts of large photographs are blurred texture
)
_QUALITY = 95  # of the JPEG files, without subsampling of colours


class Region(NamedTuple):
    """A part of a photograph, in pixels."""

    top: int
    left: int
    height: int
    width: int


def shares(photographs: Sequence[Photograph], crops: int) -> list[int]:
    """How many of all crops each photograph gives: by the root of its area, and at least one.

    Largest remainders are rounded up, so that they add up to `crops` where that is enough for all.
    """
    weights = np.array([(p.height * p.width) ** 0.5 for p in photographs])
    exact = weights / weights.sum() * max(0, crops - len(photographs))
    counts = np.floor(exact).astype(int)
    rest = max(0, crops - len(photographs)) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return [int(count) + 1 for count in counts]


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and on names, and not on what was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def whole(photograph: Photograph) -> Region:
    """All of a photograph."""
    return Region(0, 0, photograph.height, photograph.width)


def halves(photograph: Photograph) -> tuple[Region, Region]:
    """The two halves along its longer side, which have no pixel in common."""
    height, width = photograph.height, photograph.width
    if width >= height:
        half = width // 2
        return Region(0, 0, height, half), Region(0, half, height, width - half)
    half = height // 2
    return Region(0, 0, half, width), Region(half, 0, height - half, width)


def cut(
    pixels: np.ndarray, region: Region, size: int, count: int, random: np.random.Generator
) -> list[Image.Image]:
    """Random squares of a region, resized with antialias.

    Their sides are drawn log-uniformly from three tenths of the region's shorter side, but at least `size`,
    to the shorter side, so that nothing is enlarged. A square nearly of one colour is drawn again, ten times
    at most.

    Args:
        pixels: (height, width, 3) uint8 of the whole photograph.
        region: not smaller than `size` on either side.
        size: side of the result.
        count: how many.
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
