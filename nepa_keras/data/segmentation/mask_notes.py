"""Check of the masks of a source, before anything is trained or evaluated on them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nepa_keras.data.decode import ImageError
from nepa_keras.data.reading import available_cores
from nepa_keras.data.segmentation.pairs import IGNORED, PairSource
from nepa_keras.data.sources.walk import listed
from nepa_keras.files import printable

LOOKED_AT = 500  # masks; takes a few seconds


def mask_notes(source: PairSource, limit: int = LOOKED_AT) -> tuple[str, ...]:
    """Sentences about unusable masks, classes that occur in no mask, and pixels without a class.

    Args:
        source: images with masks.
        limit: number of masks to check, evenly spread over the source.

    Raises:
        ValueError: no pixel of these masks has a class.
    """
    total, classes = len(source), source.num_classes
    indices = np.linspace(0, total - 1, min(limit, total)).astype(int).tolist()
    masks = f"{total:,} masks" if len(indices) == total else f"{limit:,} of {total:,} masks"
    with ThreadPoolExecutor(available_cores()) as pool:
        looked = list(pool.map(lambda index: _pixels_of(source, index), indices))
    bad = [reason for reason in looked if isinstance(reason, str)]
    notes = [f"{len(bad):,} of {masks} cannot be used, such as {bad[0]}."] if bad else []
    if len(bad) == len(looked):
        return tuple(notes)
    pixels = np.sum([counts for counts in looked if not isinstance(counts, str)], axis=0)
    missing = [source.class_names[k] for k in np.flatnonzero(pixels[:classes] == 0)]
    if len(missing) == classes:
        raise ValueError(
            f"No pixel of {masks} has a class; write the numbers of the classes, 0 to {classes - 1}, into "
            f"the masks ({IGNORED} is no class, nor is 0 under reduce_zero_label)."
        )
    if missing:
        what = "A class" if len(missing) == 1 else f"{len(missing)} classes"
        notes.append(f"{what} of {classes} in no mask of {masks}: {listed(missing)}.")
    if pixels[IGNORED]:
        share = f"{100 * pixels[IGNORED] / pixels.sum():.2g} % of the pixels of {masks}"
        none = f"have no class ({IGNORED}, and 0 under reduce_zero_label)"
        notes.append(f"{share} {none}: they neither train nor count.")
    if missing and pixels[IGNORED]:
        number = source.class_names.index(missing[0])
        notes.append(
            f"If {IGNORED} is meant as a class, as the foreground of masks of 0 and {IGNORED} is, write the "
            f"number of the class into the masks, such as {number} for {missing[0]}."
        )
    return tuple(notes)


def _pixels_of(source: PairSource, index: int) -> np.ndarray | str:
    """Number of pixels of each value in a mask, (256,); or what is wrong with the mask."""
    name, classes = printable(source.name(index)), source.num_classes
    try:
        counts = np.bincount(source.mask(index).ravel(), minlength=IGNORED + 1)
    except ImageError as error:
        return f"{name}: {error}"
    if not counts[classes:IGNORED].any():
        return counts
    largest = classes + int(np.flatnonzero(counts[classes:IGNORED])[-1])
    hint = "; if 0 is for none and classes count from 1, use reduce_zero_label"
    return (
        f"{name}: its mask has the label {largest}, but the classes are 0 to {classes - 1}"
        f"{hint if largest == classes else ''}"
    )
