"""What becomes of an image on its way to the model: the recipes' transforms of pretraining and evaluation."""

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
    """A function of an image's pixels and of `num_random` uniform random numbers."""

    num_random = 0
    whole_pixels = False  # whether what comes out is pixels, so that `out` may be uint8
    together = False  # whether `of_arrays` exists: images of one size at once
    of_arrays: Callable[..., np.ndarray]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "draws" in vars(cls):
            raise TypeError(f"{cls.__name__}.draws is now called num_random.")

    def __call__(self, pixels: np.ndarray, draws: list[float], out: np.ndarray) -> None:
        """Writes what becomes of an image.

        Args:
            pixels: uint8 (height, width, channels).
            draws: uniform numbers in [0, 1), `self.num_random` of them.
            out: (new height, new width, channels), float32 for values in [-1, 1]; or, where the transform
                has `whole_pixels`, uint8 for pixels.
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
        """What becomes of the image `index` of a data set, as uint8 to look at.

        Args:
            pixels: uint8 (height, width, channels).
            image_size: of the result, one side or (height, width).
        """
        (draws,) = random_numbers(seed, epoch, np.array([index]), self.num_random).tolist()
        out = np.empty((*sides(image_size), pixels.shape[-1]), "float32")
        self(pixels, draws, out)
        return np.clip(np.round((out + 1) * 127.5), 0, 255).astype(np.uint8)


class Resize(ImageTransform):
    """To the wanted size, whatever the aspect ratio.

    Args:
        interpolation: "bilinear" or "bicubic", with antialias.
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
        """uint8 (N, height, width, channels) -> float32 (N, *image_size, channels) in [-1, 1]."""
        return normalize(images, image_size, self.interpolation)


class RandomResizedCrop(ImageTransform):
    """A random part of the image, resized, and flipped half of the time, as the released scripts pretrain.

    The paper pretrains with the crop alone (arXiv 2512.16922, Table 4): `flip=0`.

    Args:
        area: smallest and largest share of the image.
        aspect: smallest and largest width over height, drawn log-uniformly; times that of the result, so
            that no crop is stretched by more where the result is not square.
        interpolation: "bilinear" or "bicubic", with antialias.
        flip: share of the images that are mirrored from left to right.
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
        """The resized part, uint8."""
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
        """(top, left, height, width) of the part of an image of that height and width; whether to flip.

        An area share and an aspect ratio are drawn up to ten times until the box fits; else the largest
        centred box of a permitted ratio is taken.

        Args:
            image_size: of the result, one side or (height, width), of which the aspect ratio counts.
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
        """Boxes (N, 4) and flips (N,) of the images `indices`, all of one height and width; see `box`."""
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
        """uint8 (N, height, width, channels) -> float32 (N, *image_size, channels) in [-1, 1].

        Args:
            images: of one size.
            image_size: one side or (height, width).
            seed, epoch, indices: of the run, and of each image in the data set; the same three give the
                same crop.
        """
        _, height, width, _ = images.shape
        boxes, flips = self.boxes(seed, epoch, indices, height, width, image_size)
        new_height, new_width = sides(image_size)
        rows = resize_matrices(boxes[:, 0], boxes[:, 2], height, new_height, self.interpolation)
        columns = resize_matrices(boxes[:, 1], boxes[:, 3], width, new_width, self.interpolation)
        columns = np.where(flips[:, None, None], columns[:, ::-1], columns)
        return scale(np.clip(resize_arrays(images, rows, columns), 0, 255))


class CenterCrop(ImageTransform):
    """Resized, then the centre cut out: the evaluation of the released scripts' fine-tuning.

    Args:
        resize_to: the shorter side is brought to this length, the aspect ratio kept (256 for the base
            recipe); or (height, width) whatever the aspect ratio (235, 235 for large).
        interpolation: "bilinear" or "bicubic", with antialias.
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
    """(height, width) after the shorter side is brought to `resize_to`; `resize_to` itself if it is a pair.

    The longer side is cut to whole pixels, as torchvision does.
    """
    if isinstance(resize_to, tuple | list):
        return sides(resize_to)
    longer = int(resize_to * max(height, width) / min(height, width))
    return (resize_to, longer) if height <= width else (longer, resize_to)


def center_of(size: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the middle of that inner size, rounded as torchvision does.

    Raises:
        ValueError: the inner size is larger.
    """
    if inner[0] > size[0] or inner[1] > size[1]:
        raise ValueError(f"{inner} pixels cannot be cut from {size}; choose a larger resize_to.")
    top, left = (round((a - b) / 2) for a, b in zip(size, inner, strict=True))
    return top, left
