"""Transform of an image in the fine-tuning recipes: crop, flip, RandAugment, normalise, random erasing."""

import math

import numpy as np

from nepa_keras.data.transforms.crops import ImageTransform, RandomResizedCrop
from nepa_keras.data.transforms.rand_augment import RandAugment
from nepa_keras.data.transforms.resample import scale

_ATTEMPTS = 10


class RandomErasing:
    """Replace a random box of some images by noise, drawn for each pixel (arXiv 1708.04896).

    Args:
        probability: probability that an image is changed.
        area: smallest and largest fraction of the image's area, drawn uniformly.
        aspect: smallest and largest height / width, drawn log-uniformly.

    Example:
        >>> erasing = data.RandomErasing(probability=1.0)
        >>> image = np.zeros((28, 28, 1), "float32")
        >>> erasing(image, [0.5] * erasing.num_random)
        >>> bool(image.any())
        True
    """

    num_random = 2 * _ATTEMPTS + 4

    def __init__(
        self,
        probability: float = 0.25,
        area: tuple[float, float] = (0.02, 1 / 3),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
    ):
        if not (
            0 <= probability <= 1 and 0 < area[0] <= area[1] < 1 and 0 < aspect[0] <= aspect[1]
        ):
            raise ValueError(
                f"RandomErasing needs a probability, two shares and two ratios, each pair in order; got "
                f"{probability}, {area}, {aspect}."
            )
        self.probability, self.area, self.aspect = probability, area, aspect

    def box(self, draws: list[float], height: int, width: int) -> tuple | None:
        """Position and size of the box, (top, left, height, width); None if nothing is erased.

        Area and ratio are drawn up to ten times until the box is smaller than the image.
        """
        if draws[-1] >= self.probability:
            return None
        (smallest, largest), (low, high) = self.area, map(math.log, self.aspect)
        for share, ratio in zip(draws[:_ATTEMPTS], draws[_ATTEMPTS : 2 * _ATTEMPTS], strict=True):
            area = height * width * (smallest + (largest - smallest) * share)
            aspect = math.exp(low + (high - low) * ratio)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(draws[-4] * (height - h + 1)), int(draws[-3] * (width - w + 1))
                return top, left, h, w
        return None

    def __call__(self, image: np.ndarray, draws: list[float]) -> None:
        """Erase in place.

        Args:
            image: normalised, (height, width, channels); the noise is N(0, 1).
            draws: uniform numbers in [0, 1), `self.num_random` of them.
        """
        box = self.box(draws, *image.shape[:2])
        if box is not None:
            top, left, h, w = box
            part = image[top : top + h, left : left + w]
            generator = np.random.default_rng(int(draws[-2] * 2**53))
            part[...] = generator.standard_normal(part.shape, np.float32)


class FinetuningTransform(ImageTransform):
    """Random resized crop and flip, RandAugment, normalisation, random erasing, in this order.

    The defaults are those of the released scripts; the paper's Table 5 has no erasing.

    Args:
        crop: `RandomResizedCrop`; default bicubic.
        rand_augment: `RandAugment`, or None for none.
        erasing: `RandomErasing`, or None for none.

    Example:
        >>> transform = data.FinetuningTransform(erasing=None)
        >>> batches = data.AugmentedBatches(arrays.train_images, 4, 28, transform=transform)
        >>> batches[0].shape
        (4, 28, 28, 1)
    """

    def __init__(
        self,
        crop: RandomResizedCrop | None = None,
        rand_augment: RandAugment | None = RandAugment(),  # noqa: B008, never changed
        erasing: RandomErasing | None = RandomErasing(),  # noqa: B008
    ):
        self.crop = crop or RandomResizedCrop(interpolation="bicubic")
        self.rand_augment = rand_augment
        self.erasing = erasing
        self.whole_pixels = erasing is None
        self._ends = np.cumsum(
            [self.crop.num_random]
            + [0 if part is None else part.num_random for part in (rand_augment, erasing)]
        ).tolist()
        self.num_random = self._ends[-1]

    def __call__(self, pixels: np.ndarray, draws: list[float], out: np.ndarray) -> None:
        first, second, _ = self._ends
        image = self.crop.crop(pixels, draws[:first], out.shape[:2])
        if self.rand_augment is not None:
            image = self.rand_augment(image, draws[first:second])
        scale(image, out)
        if self.erasing is not None:
            self.erasing(out, draws[second:])
