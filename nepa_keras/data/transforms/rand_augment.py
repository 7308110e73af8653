"""RandAugment (arXiv 1909.13719) with the policy of the fine-tuning recipes.

Two operations of magnitude 9 with a standard deviation of 0.5; every operation grows stronger with the
magnitude ("increasing"). The operations are Pillow's.
"""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

LEVELS = 10  # the largest magnitude
FILL = 128  # grey of pixels from outside the image: the mean of the recipe's normalisation
_DRAWS = 5  # random numbers per operation: choice, probability, sign, two for the magnitude


def _outside(picture):
    bands = len(picture.getbands())
    return FILL if bands == 1 else (FILL,) * bands


def _affine(picture, *matrix):
    how = Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    return picture.transform(picture.size, *how, fillcolor=_outside(picture))


def _rotate(picture, degrees):
    return picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=_outside(picture))


def _posterize(picture, bits):
    """Keep the highest bits; none at the largest magnitude, which Pillow's own function refuses."""
    table = [v & (0xFF00 >> bits) for v in range(256)]
    return picture.point(table * len(picture.getbands()))


def _solarize_add(picture, amount):
    table = [min(255, v + amount) if v < 128 else v for v in range(256)]
    return picture.point(table * len(picture.getbands()))


def _enhance(kind):
    return lambda picture, factor: kind(picture).enhance(factor)


def _factor(strength, sign):
    """Factor of Pillow's enhancers: 1 changes nothing, 0.1 nearly removes, 1.9 nearly doubles a property."""
    return 1 + sign * 0.9 * strength


# For each operation: its function of an image and an argument, and the argument as a function of a strength
# from 0 to 1 and a sign.
OPERATIONS = {
    "auto_contrast": (lambda p, _: ImageOps.autocontrast(p), lambda s, sign: None),
    "equalize": (lambda p, _: ImageOps.equalize(p), lambda s, sign: None),
    "invert": (lambda p, _: ImageOps.invert(p), lambda s, sign: None),
    "rotate": (_rotate, lambda s, sign: sign * 30 * s),
    "posterize": (_posterize, lambda s, sign: 4 - int(4 * s)),
    "solarize": (ImageOps.solarize, lambda s, sign: 256 - int(256 * s)),
    "solarize_add": (_solarize_add, lambda s, sign: int(110 * s)),
    "color": (_enhance(ImageEnhance.Color), _factor),
    "contrast": (_enhance(ImageEnhance.Contrast), _factor),
    "brightness": (_enhance(ImageEnhance.Brightness), _factor),
    "sharpness": (_enhance(ImageEnhance.Sharpness), _factor),
    "shear_x": (lambda p, v: _affine(p, 1, v, 0, 0, 1, 0), lambda s, sign: sign * 0.3 * s),
    "shear_y": (lambda p, v: _affine(p, 1, 0, 0, v, 1, 0), lambda s, sign: sign * 0.3 * s),
    "translate_x": (
        lambda p, v: _affine(p, 1, 0, v * p.width, 0, 1, 0),
        lambda s, sign: sign * 0.45 * s,
    ),
    "translate_y": (
        lambda p, v: _affine(p, 1, 0, 0, 0, 1, v * p.height),
        lambda s, sign: sign * 0.45 * s,
    ),
}
NAMES = tuple(OPERATIONS)


class RandAugment:
    """A few random operations on each image.

    Args:
        num_ops: operations drawn for an image, with replacement.
        magnitude: mean strength, from 0 to 10.
        std: standard deviation of the strength, which is clipped to 0 to 10.
        probability: probability that a drawn operation is carried out.

    Example:
        >>> augment = data.RandAugment(num_ops=2, magnitude=9)
        >>> augment(np.zeros((28, 28, 3), "uint8"), [0.5] * augment.num_random).shape
        (28, 28, 3)
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 9.0,
        std: float = 0.5,
        probability: float = 0.5,
    ):
        if num_ops < 0 or not 0 <= magnitude <= LEVELS or std < 0 or not 0 <= probability <= 1:
            raise ValueError(
                f"RandAugment needs num_ops >= 0, magnitude from 0 to {LEVELS}, std >= 0 and a probability; "
                f"got {num_ops}, {magnitude}, {std}, {probability}."
            )
        self.num_ops, self.magnitude, self.std = num_ops, magnitude, std
        self.probability = probability
        self.num_random = _DRAWS * num_ops

    def plan(self, draws: list[float]) -> list[tuple[str, float | int | None]]:
        """Names of the operations to carry out, and their arguments.

        Args:
            draws: uniform numbers in [0, 1), `self.num_random` of them.
        """
        chosen = []
        for start in range(0, self.num_random, _DRAWS):
            which, whether, sign, u, v = draws[start : start + _DRAWS]
            if whether >= self.probability:
                continue
            normal = math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v)  # Box-Muller
            strength = min(max(self.magnitude + self.std * normal, 0.0), LEVELS) / LEVELS
            name = NAMES[int(which * len(NAMES))]
            chosen.append((name, OPERATIONS[name][1](strength, 1 if sign < 0.5 else -1)))
        return chosen

    def __call__(self, pixels: np.ndarray, draws: list[float]) -> np.ndarray:
        """Apply the drawn operations to uint8 (height, width, 3 or 1); returns the same shape.

        Raises:
            ValueError: the image has another number of channels.
        """
        if pixels.shape[-1] not in (1, 3):
            raise ValueError(
                f"RandAugment is for colour and grey images, not for {pixels.shape[-1]} channels; leave it "
                "out with rand_augment=None."
            )
        chosen = self.plan(draws)
        if not chosen:
            return pixels
        picture = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        for name, argument in chosen:
            picture = OPERATIONS[name][0](picture, argument)
        return np.asarray(picture).reshape(pixels.shape)
