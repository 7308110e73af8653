"""Output folder of photographs.py: training and validation crops, regions as classes, LICENCES.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from nepa_keras.tables import markdown_table
from photographs import crops
from photographs.gathering import Photograph

REGION_CROPS = {"train": 20, "test": 10}  # crops per photograph
Parts = Mapping[str, Sequence[Photograph]]


def split(photographs: Sequence[Photograph], share: float, seed: int) -> Parts:
    """Split photographs into "train" and "validation", with at least one in each.

    Args:
        photographs: at least two.
        share: fraction of the photographs for "validation".
        seed: seed of the random choice.
    """
    number = min(max(1, round(share * len(photographs))), len(photographs) - 1)
    held_out = set(crops.generator(seed).permutation(len(photographs))[:number].tolist())
    parts: dict[str, list[Photograph]] = {"train": [], "validation": []}
    for index, photograph in enumerate(photographs):
        parts["validation" if index in held_out else "train"].append(photograph)
    return parts


def write_crops(folder: Path, parts: Parts, size: int, count: int, seed: int) -> Counter[str]:
    """Write `count` crops of all photographs as PART/NAME_NUMBER.jpg; return the number in each part."""
    photographs = [photograph for part in parts.values() for photograph in part]
    of_each = dict(
        zip([p.name for p in photographs], crops.shares(photographs, count), strict=True)
    )
    written: Counter[str] = Counter()
    for part, of_part in parts.items():
        (folder / part).mkdir()
        for photograph in of_part:
            random = crops.generator(seed, photograph.name)
            region, number = crops.whole(photograph), of_each[photograph.name]
            found = crops.cut(photograph.pixels(), region, size, number, random)
            _save(found, folder / part, f"{photograph.name}_")
            written[part] += number
    return written


def write_regions(folder: Path, photographs: Sequence[Photograph], size: int, seed: int) -> int:
    """Write crops of one half of each photograph to train/NAME/ and of the other half to test/NAME/.

    Returns:
        The number of photographs that are large enough.
    """
    large = [
        photograph
        for photograph in photographs
        if min(min(region[2:]) for region in crops.halves(photograph)) >= size
    ]
    for photograph in large:
        pixels = photograph.pixels()
        for part, region in zip(REGION_CROPS, crops.halves(photograph), strict=True):
            of_class = folder / part / photograph.name
            of_class.mkdir(parents=True)
            random = crops.generator(seed, photograph.name, part)
            _save(crops.cut(pixels, region, size, REGION_CROPS[part], random), of_class, "")
    return len(large)


def licences(parts: Parts) -> str:
    """Text of LICENCES.md."""
    rows = [("photograph", "part", "licence", "author", "source", "package", "file")]
    rows += [
        (p.name, part, p.credit.licence, p.credit.author, p.credit.address, p.package, p.file)
        for part, of_part in parts.items()
        for p in of_part
    ]
    clean = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return (
        "# Licences\n\nThe pictures in this folder are square crops of the photographs below, reduced in "
        "size, under the licences of the photographs: whoever shows or redistributes one must name its "
        "author and licence. The file name of a crop begins with the name of its photograph.\n\n"
        + markdown_table(clean)
        + "\n"
    )


def _save(found: Sequence, folder: Path, prefix: str) -> None:
    for number, crop in enumerate(found):
        crops.save(crop, folder / f"{prefix}{number:03}.jpg")
