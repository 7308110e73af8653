"""Selection of photographs in packages: large enough, freely licensed, and without duplicates."""

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

_LOOK = 32  # side in pixels at which photographs are compared
# Correlation above which two photographs are renditions of the same one. Among the photographs of the known
# packages, different ones reach at most 0.91, and a photograph and its JPEG copy of quality 60 at a third of
# the size at least 0.965 (2026-11-28).
_SAME = 0.95


class Photograph(NamedTuple):
    """A photograph in a package.

    Attributes:
        name: unique name, from the package and the file without its ending.
        encoded: content of the file.
        height, width: size in pixels.
        look: photograph at 32x32 pixels, (3072,) float32 of mean 0 and norm 1; all 0 if of one colour.
        credit: author and licence.
        package: name of the package with its version and registry.
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
        """Decoded pixels (height, width, 3) uint8, upright, transparency over white."""
        return decode_image(self.encoded)


def look_of(pixels: np.ndarray) -> np.ndarray:
    """Descriptor of a picture that is independent of size and contrast, see `Photograph.look`."""
    small = Image.fromarray(pixels).resize((_LOOK, _LOOK), Image.Resampling.BOX)
    values = np.asarray(small, "float32").ravel()
    values -= values.mean()
    length = np.linalg.norm(values)
    return values / length if length > 1e-3 else values * 0.0


def read_package(
    source: Source, path: Path, size: int, gpl: bool
) -> tuple[list[Photograph], Counter[str]]:
    """Read the photographs of a package; also count the pictures left out, by reason.

    Args:
        source: entry of the package in `sources.SOURCES`.
        path: file of the package.
        size: smallest shorter side in pixels; smaller photographs are left out.
        gpl: whether the GPL and LGPL count as free.

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
    except ValueError as error:  # only the JSON format has syntax errors
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
    """Remove duplicates: keep the largest rendition of each picture, with a unique name.

    Returns:
        The photographs sorted by name, and (name, name of the one kept) of each one removed.
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
    """Part of a path that names the picture: the file, or a folder if the file is named by its size."""
    parts = path.rpartition(".")[0].split("/")
    sized = re.fullmatch(r"\d+x\d+", parts[-1]) and len(parts) > 3
    return parts[-4] if sized else parts[-1]


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
