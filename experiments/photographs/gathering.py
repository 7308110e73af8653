"""The photographs of packages: which are large enough, free, and no rendition of another."""

import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from nepa_keras.data import ImageError, decode_image
from photographs import credits, packages
from photographs.credits import Credit
from photographs.sources import METADATA, Source

_LOOK = 32  # pixels of the side of what is compared
# Correlation above which two photographs are renditions of one. Of the photographs that the table of packages
# gives, different ones reach 0.91 at most, and one and its copy as a JPEG file of quality 60 with a third of
# the side 0.965 at least (2026-11-28).
_SAME = 0.95


class Photograph(NamedTuple):
    """A photograph in a package.

    Attributes:
        name: of the package and its file, without an ending; unique.
        encoded: content of the file.
        height, width: pixels.
        look: it at 32x32, (3072,) float32 of mean 0 and length 1; of one colour all 0.
        credit: who and how.
        package: with its version and registry.
        file: path in the package.
    """

    name: str
    encoded: bytes
    height: int
    width: int
    look: np.ndarray
    credit: Credit
    package: str
    file: str

    def pixels(self) -> np.ndarray:
        """(height, width, 3) uint8, upright and over white."""
        return decode_image(self.encoded)


def look_of(pixels: np.ndarray) -> np.ndarray:
    """What a picture shows, whatever its size and contrast: `Photograph.look`."""
    small = Image.fromarray(pixels).resize((_LOOK, _LOOK), Image.Resampling.BOX)
    values = np.asarray(small, "float32").ravel()
    values -= values.mean()
    length = np.linalg.norm(values)
    return values / length if length > 1e-3 else values * 0.0


def read_package(
    source: Source, path: Path, size: int, gpl: bool
) -> tuple[list[Photograph], Counter[str]]:
    """The photographs of a package, and how many of its pictures were left out for which reason.

    Args:
        source: its row of the table.
        path: of its file.
        size: pixels of the shorter side, below which a photograph is left out.
        gpl: whether the GPL and the LGPL count as free.

    Raises:
        UnavailableError: the package cannot be read.
    """
    pictures, statements = {}, {}
    for name, content in packages.members(path):
        if name.rpartition("/")[2] == source.stated:
            statements[name] = content
        elif _matches(name, source.files) and not _matches(name, source.without):
            pictures[name] = content
    try:
        credit_of = credits.read(source.stated, statements)
    except ValueError as error:  # the one format with a grammar is JSON
        raise packages.UnavailableError(f"a {METADATA} of {path} is damaged: {error}") from None
    of = f"{source.package} {packages.version(path)} ({source.registry})"
    found, reasons = [], Counter()
    for name in sorted(pictures):
        credit = credit_of(name)
        if credit is None:
            reasons["without a licence"] += 1
            continue
        if not credit.is_free(gpl):
            reasons[f"under {credit.licence}"] += 1
            continue
        try:
            pixels = decode_image(pictures[name])
        except ImageError:
            reasons["that cannot be read"] += 1
            continue
        height, width = pixels.shape[:2]
        if min(height, width) < size:
            reasons["smaller than a crop"] += 1
            continue
        short = re.sub(r"[^\w-]+", "-", f"{source.package}-{_title(name)}")
        found.append(
            Photograph(short, pictures[name], height, width, look_of(pixels), credit, of, name)
        )
    return found, reasons


def distinct(photographs: Iterable[Photograph]) -> tuple[list[Photograph], list[tuple[str, str]]]:
    """Each picture once, the largest of its renditions, with a unique name.

    Returns:
        The photographs by name; and of those that are dropped (name, name of the one that stays).
    """
    kept: list[Photograph] = []
    dropped, names = [], set()
    for photograph in sorted(photographs, key=lambda p: (-p.height * p.width, p.package, p.file)):
        work = photograph.credit.work
        for other in kept:
            if (work and work == other.credit.work) or photograph.look @ other.look > _SAME:
                dropped.append((photograph.name, other.name))
                break
        else:
            name, number = photograph.name, 1
            while name in names:
                number += 1
                name = f"{photograph.name}-{number}"
            names.add(name)
            kept.append(photograph._replace(name=name))
    return sorted(kept, key=lambda p: p.name), dropped


def _title(path: str) -> str:
    """The part of a path that names the picture: where the file has its size for a name, a folder."""
    parts = path.rpartition(".")[0].split("/")
    sized = re.fullmatch(r"\d+x\d+", parts[-1]) and len(parts) > 3
    return parts[-4] if sized else parts[-1]


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
