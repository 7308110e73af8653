"""Pairs of an image and its mask, held as one array: the mask is the last channel.

So threads, order, transforms and replacement of bad files work as for images alone.
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
IGNORED = 255  # label of pixels that are neither trained on nor evaluated


class PairSource(ImageSource):
    """Base class of sources of images uint8 (height, width, channels) with labels uint8 (height, width).

    A label is a class number or `IGNORED`. Subclasses implement `pair`, `__len__` and `name`.

    Args:
        class_names: names of the classes 0 to C - 1.
        channels: channels of the images.

    Example:
        >>> source = segmentation.Scenes(count=8)
        >>> image, labels = source.pair(0)
        >>> image.shape, labels.shape, source.num_classes
        ((56, 56, 1), (56, 56), 11)
    """

    class_names: tuple[str, ...]  # never None in this class

    def __init__(self, class_names: Sequence[str], channels: int = 3):
        super().__init__(class_names=class_names)
        self.channels = channels

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are below it, or 255 for none."""
        return len(self.class_names)

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and labels at an index.

        Raises:
            ImageError: one of the two cannot be read, or their sizes differ.
        """
        raise NotImplementedError

    def mask(self, index: int) -> np.ndarray:
        """Labels at an index, without reading the image where possible.

        Raises:
            ImageError: the labels cannot be read.
        """
        return self.pair(index)[1]

    def read(self, index: int) -> np.ndarray:
        """Image and labels as one array (height, width, channels + 1)."""
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
    """Pairs of a source at given indices, in that order.

    Args:
        source: a `PairSource`.
        indices: numbers of its pairs.

    Example:
        >>> some = segmentation.SubsetPairs(segmentation.Scenes(count=8), [5, 2])
        >>> len(some), some.name(0)
        (2, 'scene 5')
    """

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
    """Pairs from a folder of images and a folder of PNG masks with the same names, at any depth.

    An image whose EXIF data says that it is rotated is turned upright; its mask must be upright.

    Args:
        images: folder of images.
        masks: folder of one-channel PNGs whose values are classes.
        class_names: names of the classes.
        reduce_zero_label: whether value 0 in a file means no class and value k the class k - 1, as in ADE20K.
        channels: channels of the images that are read, 3 or 1.
        value_range: (lowest, highest) value that become black and white, for images of more than 8 bits; see
            `decode_image`.

    Raises:
        ValueError: a folder is missing or empty, an image has no mask or a mask no image, two files have the
            same name, or there are more than 255 classes.

    Example:
        >>> import shutil
        >>> folder = shutil.copytree("pictures", "masks")  # in place of real masks
        >>> pairs = segmentation.FolderPairs("pictures", "masks", ["sky", "sea"], channels=1)
        >>> len(pairs), pairs.num_classes
        (8, 2)
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
    """Values of a one-channel mask, uint8 (height, width); of one with a palette, the indices.

    Raises:
        ImageError: the mask is damaged, has several channels or a lossy format, or its values are not whole
            numbers from 0 to 255.
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
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise ImageError(f"its mask cannot be read ({error})") from error
    if values.ndim != 2:
        raise ImageError("its mask is a colour image, but must hold class numbers")
    labels = np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)
    if (labels != values).any():
        raise ImageError("its mask has values that are no class numbers from 0 to 255")
    return labels


def _by_stem(files: Iterable[str], folder: str | Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        stem = str(Path(file).relative_to(Path(folder).expanduser()).with_suffix(""))
        if stem in found:
            raise ValueError(f"{found[stem]} and {file} have the same name; remove one of them.")
        found[stem] = file
    return found
