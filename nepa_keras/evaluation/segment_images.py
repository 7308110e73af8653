"""A class for each pixel of images of any size: whole or by windows, several scales, flipped.

H x W an image, K classes.
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from nepa_keras.data.resample import resize, scale
from nepa_keras.data.segmentation import fitting_size
from nepa_keras.layers.upernet import resize as resize_logits
from nepa_keras.segmenter import NepaImageSegmenter


class ImageSegmenter:
    """A segmenter for uint8 images of any size (SPEC section 6, test).

    An image is brought to fit `fit`, looked at as a whole or through windows whose logits are averaged where
    they overlap; logits are brought to the original size before anything is decided. Of several scales and
    flips the probabilities are averaged.

    Args:
        segmenter: a `NepaImageSegmenter`.
        fit: bounds of the longer and the shorter side, such as (2048, 512); None keeps the size.
        window: side of the windows, or None for the whole. With windows each size of image costs no new
            compilation.
        stride: from one window to the next; the last is shifted back inside.
        scales: factors on `fit`, or on the size.
        flip: whether to look at the mirrored image too.
        batch_size: windows at a time.

    Raises:
        ValueError: a stride that leaves gaps, or no scales.
    """

    def __init__(
        self,
        segmenter: NepaImageSegmenter,
        fit: tuple[int, int] | None = None,
        window: int | None = None,
        stride: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        batch_size: int = 4,
    ):
        if window is not None:
            stride = stride or max(window * 2 // 3, 1)
            if not 0 < stride <= window:
                raise ValueError(f"A stride of {stride} leaves gaps between windows of {window}.")
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales={tuple(scales)} must be factors above 0.")
        self.segmenter, self.fit = segmenter, fit
        self.window, self.stride = window, stride
        self.scales, self.flip, self.batch_size = tuple(scales), flip, batch_size

    def labels(self, image: np.ndarray) -> np.ndarray:
        """The most likely class of each pixel, (H, W) uint8 or int32, of uint8 (H, W, channels)."""
        kind = np.uint8 if self.segmenter.num_classes <= 256 else np.int32
        return self.scores(image).argmax(axis=-1).astype(kind)

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Logits (H, W, K) of uint8 (H, W, channels); of several looks the mean of the probabilities."""
        looks = [
            self._look(image, factor, mirrored)
            for factor in self.scales
            for mirrored in ((False, True) if self.flip else (False,))
        ]
        if len(looks) == 1:
            return looks[0]
        return np.mean([_softmax(look) for look in looks], axis=0)

    def _look(self, image: np.ndarray, factor: float, mirrored: bool) -> np.ndarray:
        height, width = image.shape[:2]
        longer, shorter = self.fit or (max(height, width), min(height, width))
        size = fitting_size(height, width, (longer * factor, shorter * factor))
        pixels = scale(resize(image, size, "bilinear").astype("float32"))
        if mirrored:
            pixels = pixels[:, ::-1]
        logits = self._whole(pixels[None])[0] if self.window is None else self._windows(pixels)
        if mirrored:
            logits = logits[:, ::-1]
        if size == (height, width):
            return logits
        return ops.convert_to_numpy(resize_logits(logits[None], (height, width)))[0]

    def _whole(self, pixels: np.ndarray) -> np.ndarray:
        return ops.convert_to_numpy(self.segmenter.predict_on_batch(pixels))

    def _windows(self, pixels: np.ndarray) -> np.ndarray:
        """Logits (H, W, K) averaged over the windows that see a pixel."""
        height, width, _ = pixels.shape
        side = (min(self.window, height), min(self.window, width))
        places = [
            (slice(top, top + side[0]), slice(left, left + side[1]))
            for top in window_starts(height, side[0], self.stride)
            for left in window_starts(width, side[1], self.stride)
        ]
        total = np.zeros((height, width, self.segmenter.num_classes), "float32")
        count = np.zeros((height, width, 1), "float32")
        for first in range(0, len(places), self.batch_size):
            some = places[first : first + self.batch_size]
            batch = np.zeros((self.batch_size, *side, pixels.shape[-1]), "float32")
            for row, place in zip(batch, some, strict=False):
                row[...] = pixels[place]
            for logits, place in zip(self._whole(batch), some, strict=False):
                total[place] += logits
                count[place] += 1
        return total / count


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover a length; the last ends with it."""
    starts = list(range(0, max(length - window, 0), stride))
    return [*starts, max(length - window, 0)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
