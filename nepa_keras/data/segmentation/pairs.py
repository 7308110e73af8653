"""Pairs of an image and its mask, which are one array: a mask is one more channel of its image.

So whatever becomes of the pair, its threads, order and replacements of bad files are those of any image.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nepa_keras.data.decode import ImageError, check_size, decode_image, read_file
from nepa_keras.data.pixels import ValueRange, checked_range
from nepa_keras.data.sources.base import ImageSource, size_of
from nepa_keras.data.sources.files import FileSource
from nepa_keras.data.sources.walk import find_images, image_files
from nepa_keras.data.stored_ranges import source_range_note

_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
IGNORED = 255  # the label of pixels that neither train nor count


class PairSource(ImageSource):
    """Images (height, width, channels) uint8 with labels (height, width) uint8: a class, or `IGNORED`.

    Args:
        class_names: of the classes 0 to K - 1.
        channels: of the images.
    """

    class_names: tuple[str, ...]  # never None here

    def __init__(self, class_names: Sequence[str], channels: int = 3):
        super().__init__(class_names=class_names)
        self.channels = channels

    @property
    def num_classes(self) -> int:
        """How many classes have a name; labels are below it, or 255 for none."""
        return len(self.class_names)

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An image and its labels.

        Raises:
            ImageError: one of the two cannot be read, or they do not belong together.
        """
        raise NotImplementedError

    def mask(self, index: int) -> np.ndarray:
        """The labels of an image, without the image where it need not be read.

        Raises:
            ImageError: they cannot be read.
        """
        return self.pair(index)[1]

    def read(self, index: int) -> np.ndarray:
        """Both, (height, width, channels + 1)."""
        image, labels = self.pair(index)
        if image.shape[:2] != labels.shape:
            raise ImageError(
                f"the image has {image.shape[0]}x{image.shape[1]} pixels, its mask "
                f"{labels.shape[0]}x{labels.shape[1]}"
            )
        wrong = labels[(labels >= self.num_classes) & (labels != IGNORED)]
        if wrong.size:
            raise ImageError(
                f"its mask has the label {wrong.max()}, but the classes are 0 to {self.num_classes - 1}, and "
                f"{IGNORED} for none"
            )
        return np.concatenate([image, labels[..., None]], axis=-1)


class SubsetPairs(PairSource):
    """The pairs of a source at some indices, in that order."""

    def __init__(self, source: PairSource, indices: Iterable[int]):
        super().__init__(source.class_names, source.channels)
        self.source, self.indices = source, [int(index) for index in indices]
        self.notes = source.notes

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def mark(self, index: int) -> object:
        return self.source.mark(self.indices[index])

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source.pair(self.indices[index])

    def mask(self, index: int) -> np.ndarray:
        return self.source.mask(self.indices[index])


class FolderPairs(PairSource):
    """A folder of images and one of PNG masks with the same names, at any depth.

    An image whose EXIF says that it is turned is turned, so its mask has to be as the image is seen.

    Args:
        images: folder of images.
        masks: folder of one-channel PNGs whose values are classes.
        class_names: of the classes.
        reduce_zero_label: 0 in a file means no class, k the class k - 1, as in ADE20K.
        channels: of the images that come out, 3 or 1.
        value_range: (lowest, highest) value that become black and white, of images of more than 8 bits; see
            `decode_image`.

    Raises:
        ValueError: a folder is missing or empty, an image has no mask or a mask no image, two have one name,
            or there are more than 255 classes.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        class_names: Sequence[str],
        reduce_zero_label: bool = False,
        channels: int = 3,
        value_range: ValueRange | None = None,
    ):
        super().__init__(class_names, channels)
        self.value_range = checked_range(value_range)
        if len(self.class_names) > IGNORED:
            raise ValueError(
                f"{len(self.class_names)} classes are more than a mask has values for, {IGNORED}."
            )
        for folder in (images, masks):
            if not Path(folder).expanduser().is_dir():
                raise ValueError(f"There is no folder {folder}.")
        self.reduce_zero_label = reduce_zero_label
        pictures = find_images(images)
        self.notes = pictures.notes
        found = _by_stem(pictures.files, images)
        theirs = _by_stem((f for f in image_files(masks) if f.lower().endswith(".png")), masks)
        for kind, here, there in (("mask", found, theirs), ("image", theirs, found)):
            if lone := sorted(set(here) - set(there)):
                raise ValueError(
                    f"{here[lone[0]]} has no {kind} (nor have {len(lone) - 1} others); masks are PNGs with "
                    f"the names of the images, here in {masks}."
                )
        self.files = [(found[stem], theirs[stem]) for stem in sorted(found)]
        if note := source_range_note(FileSource(pictures.files), self.value_range):
            self.notes += (note,)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index][0]

    def mark(self, index: int) -> object:
        return [size_of(file) for file in self.files[index]]

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        content = read_file(self.files[index][0])
        image = decode_image(content, self.channels, self.value_range)
        return image, self.mask(index)

    def mask(self, index: int) -> np.ndarray:
        labels = decode_mask(read_file(self.files[index][1]))
        if not self.reduce_zero_label:
            return labels
        return np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1).astype(np.uint8)


def decode_mask(content: bytes) -> np.ndarray:
    """The values of a one-channel picture (height, width) uint8; of one with a palette its indices.

    Raises:
        ImageError: damaged, of several channels, of a format that changes values, or with values that are
            no whole numbers from 0 to 255.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            check_size(image.width, image.height)
            compression = str(image.info.get("compression"))
            if image.format not in _LOSSLESS or "jpeg" in compression:
                raise ImageError(
                    f"its mask is stored as {image.format}, which changes the numbers; save it as PNG"
                )
            values = np.asarray(image)
    except ImageError:
        raise
    except Exception as error:  # as for images: Pillow raises whatever a damaged file makes it
        raise ImageError(f"its mask cannot be read ({error})") from error
    if values.ndim != 2:
        raise ImageError("its mask is a picture in colours, not of class numbers")
    labels = np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)
    if (labels != values).any():
        raise ImageError("its mask has values that are no class numbers from 0 to 255")
    return labels


def _by_stem(files: Iterable[str], folder: str | Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        stem = str(Path(file).relative_to(Path(folder).expanduser()).with_suffix(""))
        if stem in found:
            raise ValueError(f"{found[stem]} and {file} have the same name; take one of them away.")
        found[stem] = file
    return found
