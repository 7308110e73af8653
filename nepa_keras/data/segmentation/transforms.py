"""Transform of an image and its mask for training: the same geometry for both."""

import numpy as np

from nepa_keras.data.segmentation.pairs import IGNORED
from nepa_keras.data.transforms import ImageTransform
from nepa_keras.data.transforms.resample import resize, scale

_CROPS = 10  # attempts to find a crop that one class does not dominate
_HUE = 18 / 180  # fraction of the colour circle


def fitting_size(height: int, width: int, fit: tuple[float, float]) -> tuple[int, int]:
    """Size (height, width) of an image scaled to the largest that fits, with its aspect ratio kept.

    Args:
        height, width: size of the image.
        fit: bounds of the longer and of the shorter side, such as (2048, 512).
    """
    longer, shorter = fit
    factor = min(longer / max(height, width), shorter / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


class SegmentationTransform(ImageTransform):
    """Random scale, crop that one class does not dominate, flip, photometric distortion, padding.

    Takes and returns an image whose last channel is its labels. The image is resized bilinearly with
    antialias, labels by nearest neighbour. Where a crop exceeds the image it is padded with zero, the middle
    of [-1, 1], and with `IGNORED`.

    Args:
        fit: bounds of longer and shorter side before `ratios` apply; None keeps the size.
        ratios: smallest and largest factor on both bounds, or on the size.
        largest_share: largest fraction of one class among the labelled pixels of a crop; after ten failed
            attempts the last crop is used.
        flip: probability of mirroring from left to right.
        photometric: whether to change brightness, contrast, saturation and hue; of grey images the first
            two.

    Example:
        >>> transform = segmentation.SegmentationTransform(fit=None, flip=0.0)
        >>> batches = segmentation.SegmentationBatches(
        ...     segmentation.Scenes(count=8), 4, 28, transform=transform
        ... )
    """

    num_random = 1 + 2 * _CROPS + 1 + 9

    def __init__(
        self,
        fit: tuple[int, int] | None = (2048, 512),
        ratios: tuple[float, float] = (0.5, 2.0),
        largest_share: float = 0.75,
        flip: float = 0.5,
        photometric: bool = True,
    ):
        if not (0 < ratios[0] <= ratios[1] and 0 < largest_share <= 1 and 0 <= flip <= 1):
            raise ValueError(
                f"ratios={ratios}, largest_share={largest_share} and flip={flip} must be: two factors in "
                "order, a share and a probability."
            )
        self.fit, self.ratios, self.largest_share = fit, ratios, largest_share
        self.flip, self.photometric = flip, photometric

    def __call__(self, pixels: np.ndarray, draws: list[float], out: np.ndarray) -> None:
        image, labels = np.ascontiguousarray(pixels[..., :-1]), pixels[..., -1]
        size = self._size(draws[0], *labels.shape)
        labels = _nearest(labels, size)
        height, width = (min(a, b) for a, b in zip(out.shape, size, strict=False))
        top, left = self._crop(labels, draws[1 : 1 + 2 * _CROPS], height, width)
        place = slice(top, top + height), slice(left, left + width)
        image, labels = resize(image, size, "bilinear")[place], labels[place]
        if draws[1 + 2 * _CROPS] < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.photometric:
            image = distort(image, draws[-9:])
        out[..., :-1], out[..., -1] = 0.0, IGNORED
        out[:height, :width, :-1] = scale(image.astype("float32"))
        out[:height, :width, -1] = labels

    def _size(self, draw: float, height: int, width: int) -> tuple[int, int]:
        low, high = self.ratios
        ratio = low + (high - low) * draw
        longer, shorter = self.fit or (max(height, width), min(height, width))
        return fitting_size(height, width, (longer * ratio, shorter * ratio))

    def _crop(self, labels, draws, height: int, width: int) -> tuple[int, int]:
        """(top, left) of the first crop with several classes of which none exceeds its largest share."""
        for a, b in zip(draws[::2], draws[1::2], strict=True):
            top = int(a * (labels.shape[0] - height + 1))
            left = int(b * (labels.shape[1] - width + 1))
            counts = np.bincount(labels[top : top + height, left : left + width].ravel())
            counts = counts[:IGNORED][counts[:IGNORED] > 0]
            if len(counts) > 1 and counts.max() < self.largest_share * counts.sum():
                break
        return top, left


def distort(image: np.ndarray, draws) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each with probability 0.5.

    Brightness by +-32, contrast and saturation by a factor of 0.5 to 1.5, hue by +-18 degrees of 180;
    contrast comes first or last.

    Args:
        image: uint8 (height, width, 3 or 1).
        draws: nine uniform numbers in [0, 1).
    """
    brightness, contrast, saturation, hue = (
        amount if chance < 0.5 else None
        for chance, amount in zip(draws[:4], draws[4:8], strict=True)
    )
    image = image.astype("float32")
    if brightness is not None:
        image = _clip(image + (2 * brightness - 1) * 32)
    last = draws[8] < 0.5
    if contrast is not None and not last:
        image = _clip(image * (0.5 + contrast))
    if image.shape[-1] == 3 and (saturation is not None or hue is not None):
        image = _color(image, saturation, hue)
    if contrast is not None and last:
        image = _clip(image * (0.5 + contrast))
    return image.astype(np.uint8)


def _clip(image):
    return np.clip(np.floor(image), 0, 255)


def _color(image, saturation, hue):
    from PIL import Image

    hsv = np.array(Image.fromarray(image.astype(np.uint8)).convert("HSV"), "float32")
    if saturation is not None:
        hsv[..., 1] = _clip(hsv[..., 1] * (0.5 + saturation))
    if hue is not None:
        hsv[..., 0] = (hsv[..., 0] + (2 * hue - 1) * _HUE * 256) % 256
    return np.array(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"), "float32")


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels resized by nearest neighbour: each output pixel takes the label at its centre."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]
