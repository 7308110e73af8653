"""Transforms of an image for pretraining and evaluation: resize and crop."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from nepa_keras.data.order import random_numbers
from nepa_keras.data.transforms.resample import (
    check_interpolation,
    normalize,
    resize,
    resize_and_scale,
    resize_arrays,
    scale,
    sides,
)
from nepa_keras.resampling import resize_matrices

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class ImageTransform:
    """Base class of transforms: a function of an image's pixels and of `num_random` random numbers.

    Subclasses implement `__call__`.

    Attributes:
        num_random: number of uniform random numbers that one call takes.
        whole_pixels: whether the result is whole pixels, so that it can be written as uint8.
        together: whether `of_arrays` exists, which transforms a batch of images of one size at once.

    Example:
        >>> class Darker(data.ImageTransform):
        ...     num_random = 1
        ...     def __call__(self, pixels, draws, out):
        ...         data.Resize()(pixels, draws, out)
        ...         out -= draws[0]
        >>> batches = data.AugmentedBatches(arrays.train_images, 4, 28, transform=Darker())
    """

    num_random = 0
    whole_pixels = False
    together = False
    of_arrays: Callable[..., np.ndarray]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "draws" in vars(cls):
            raise TypeError(f"{cls.__name__}.draws is now called num_random.")

    def __call__(self, pixels: np.ndarray, draws: list[float], out: np.ndarray) -> None:
        """Write the transformed image into `out`.

        Args:
            pixels: uint8 (height, width, channels).
            draws: uniform numbers in [0, 1), `self.num_random` of them.
            out: (new height, new width, channels), float32 for values in [-1, 1]; or uint8 for pixels, if the
                transform has `whole_pixels`.
        """
        raise NotImplementedError

    def preview(
        self,
        pixels: np.ndarray,
        image_size: int | tuple[int, int],
        seed: int = 0,
        epoch: int = 0,
        index: int = 0,
    ) -> np.ndarray:
        """Transformed image as uint8 pixels, to look at.

        Args:
            pixels: uint8 (height, width, channels).
            image_size: size of the result, one side or (height, width).
            seed, epoch: of the run.
            index: index of the image in its data set.
        """
        (draws,) = random_numbers(seed, epoch, np.array([index]), self.num_random).tolist()
        out = np.empty((*sides(image_size), pixels.shape[-1]), "float32")
        self(pixels, draws, out)
        return np.clip(np.round((out + 1) * 127.5), 0, 255).astype(np.uint8)


class Resize(ImageTransform):
    """Resize to the output size, ignoring the aspect ratio.

    Args:
        interpolation: "bilinear" or "bicubic", with antialias.

    Example:
        >>> data.Resize("bicubic").preview(np.zeros((60, 80, 3), "uint8"), 28).shape
        (28, 28, 3)
    """

    whole_pixels = True
    together = True

    def __init__(self, interpolation: str = "bilinear"):
        self.interpolation = check_interpolation(interpolation)

    def __call__(self, pixels: np.ndarray, draws: list[float], out: np.ndarray) -> None:
        resize_and_scale(pixels, out, self.interpolation)

    def of_arrays(
        self,
        images: np.ndarray,
        image_size: int | tuple[int, int],
        *,
        seed: int,
        epoch: int,
        indices: np.ndarray,
    ) -> np.ndarray:
        """Transform uint8 (B, height, width, channels) to float32 (B, *image_size, channels) in [-1, 1]."""
        return normalize(images, image_size, self.interpolation)


class RandomResizedCrop(ImageTransform):
    """Resize a random part of the image and mirror it at random, as the released scripts pretrain.

    The paper pretrains with the crop alone (arXiv 2512.16922, Table 4): `flip=0`.

    Args:
        area: smallest and largest fraction of the image's area.
        aspect: smallest and largest width / height, drawn log-uniformly, relative to that of the result, so
            that crops for a result that is not square are not stretched more.
        interpolation: "bilinear" or "bicubic", with antialias.
        flip: probability of mirroring from left to right.

    Example:
        >>> crop = data.RandomResizedCrop(area=(0.2, 1.0), flip=0.0)
        >>> crop.preview(np.zeros((60, 80, 3), "uint8"), 28, seed=1).shape
        (28, 28, 3)
    """

    num_random = 2 * _ATTEMPTS + 3
    whole_pixels = True
    together = True

    def __init__(
        self,
        area: tuple[float, float] = AREA,
        aspect: tuple[float, float] = ASPECT,
        interpolation: str = "bilinear",
        flip: float = 0.5,
    ):
        self.interpolation = check_interpolation(interpolation)
        if not (0 < area[0] <= area[1] <= 1 and 0 < aspect[0] <= aspect[1] and 0 <= flip <= 1):
            raise ValueError(
                f"area={area}, aspect={aspect} and flip={flip} must be: two shares of the image, two ratios, "
                "each pair in order, and a probability."
            )
        self.area, self.aspect, self.flip = area, aspect, flip

    def __call__(self, pixels: np.ndarray, draws: list[float], out: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        box, flip = self.box(draws, height, width, out.shape[:2])
        resize_and_scale(pixels, out, self.interpolation, box, flip)

    def crop(
        self, pixels: np.ndarray, draws: list[float], image_size: tuple[int, int]
    ) -> np.ndarray:
        """Resized part of the image, uint8."""
        height, width = pixels.shape[:2]
        box, flip = self.box(draws, height, width, image_size)
        return resize(pixels, image_size, self.interpolation, box, flip)

    def box(
        self,
        draws: list[float],
        height: int,
        width: int,
        image_size: int | tuple[int, int] = 1,
    ) -> tuple[tuple, bool]:
        """Part of an image as (top, left, height, width), and whether to mirror it.

        Area and aspect ratio are drawn up to ten times until the part fits into the image; else the largest
        centred part of a permitted ratio is taken.

        Args:
            draws: uniform numbers in [0, 1), `self.num_random` of them.
            height, width: size of the image.
            image_size: size of the result, one side or (height, width); only its aspect ratio matters.
        """
        new_height, new_width = sides(image_size)
        narrowest, widest = (ratio * (new_width / new_height) for ratio in self.aspect)
        (smallest, largest), (low, high) = self.area, map(math.log, (narrowest, widest))
        flip = draws[-1] < self.flip
        for share, ratio in zip(draws[:_ATTEMPTS], draws[_ATTEMPTS : 2 * _ATTEMPTS], strict=True):
            area = height * width * (smallest + (largest - smallest) * share)
            aspect = math.exp(low + (high - low) * ratio)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 1 <= w <= width and 1 <= h <= height:
                top, left = int(draws[-3] * (height - h + 1)), int(draws[-2] * (width - w + 1))
                return (top, left, h, w), flip
        ratio = width / height
        w = width if ratio <= widest else max(1, round(height * widest))
        h = height if ratio >= narrowest else max(1, round(width / narrowest))
        return ((height - h) // 2, (width - w) // 2, h, w), flip

    def boxes(
        self,
        seed: int,
        epoch: int,
        indices: Sequence[int] | np.ndarray,
        height: int,
        width: int,
        image_size: int | tuple[int, int] = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Parts (B, 4) and mirroring (B,) of the images `indices`, all of one height and width; see `box`."""
        draws = random_numbers(seed, epoch, np.asarray(indices), self.num_random).tolist()
        found = (self.box(row, height, width, image_size) for row in draws)
        boxes, flips = zip(*found, strict=True)
        return np.array(boxes), np.array(flips)

    def of_arrays(
        self,
        images: np.ndarray,
        image_size: int | tuple[int, int],
        *,
        seed: int,
        epoch: int,
        indices: np.ndarray,
    ) -> np.ndarray:
        """Transform uint8 (B, height, width, channels) to float32 (B, *image_size, channels) in [-1, 1].

        Args:
            images: images of one size.
            image_size: one side or (height, width).
            seed, epoch, indices: of the run, and of each image in the data set; they determine the crops.
        """
        _, height, width, _ = images.shape
        boxes, flips = self.boxes(seed, epoch, indices, height, width, image_size)
        new_height, new_width = sides(image_size)
        rows = resize_matrices(boxes[:, 0], boxes[:, 2], height, new_height, self.interpolation)
        columns = resize_matrices(boxes[:, 1], boxes[:, 3], width, new_width, self.interpolation)
        columns = np.where(flips[:, None, None], columns[:, ::-1], columns)
        return scale(np.clip(resize_arrays(images, rows, columns), 0, 255))


class CenterCrop(ImageTransform):
    """Resize, then crop the centre: the evaluation transform of the released fine-tuning scripts.

    Args:
        resize_to: length to which the shorter side is resized, keeping the aspect ratio (256 in the base
            recipe); or (height, width), ignoring the aspect ratio (235, 235 in the large recipe).
        interpolation: "bilinear" or "bicubic", with antialias.

    Example:
        >>> data.CenterCrop(resize_to=32).preview(np.zeros((60, 80, 3), "uint8"), 28).shape
        (28, 28, 3)
    """

    whole_pixels = True

    def __init__(self, resize_to: int | tuple[int, int] = 256, interpolation: str = "bicubic"):
        self.interpolation = check_interpolation(interpolation)
        self.resize_to = resize_to
        if min(sides(resize_to)) < 1:
            raise ValueError(f"resize_to must be positive, got {resize_to}.")

    def __call__(self, pixels: np.ndarray, draws: list[float], out: np.ndarray) -> None:
        size = resized_size(self.resize_to, *pixels.shape[:2])
        (top, left), (height, width) = center_of(size, out.shape[:2]), out.shape[:2]
        resized = resize(pixels, size, self.interpolation)
        scale(resized[top : top + height, left : left + width], out)


def resized_size(resize_to: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Size (height, width) after the shorter side is resized to `resize_to`; a pair is returned unchanged.

    The longer side is rounded down to whole pixels, as in torchvision.
    """
    if isinstance(resize_to, tuple | list):
        return sides(resize_to)
    longer = int(resize_to * max(height, width) / min(height, width))
    return (resize_to, longer) if height <= width else (longer, resize_to)


def center_of(size: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    """Position (top, left) of a centred part, rounded as in torchvision.

    Raises:
        ValueError: the part is larger than the image.
    """
    if inner[0] > size[0] or inner[1] > size[1]:
        raise ValueError(f"{inner} pixels cannot be cut from {size}; choose a larger resize_to.")
    top, left = (round((a - b) / 2) for a, b in zip(size, inner, strict=True))
    return top, left
