"""A class for each pixel of images of any size: whole or by windows, several scales, flipped.

H x W an image, K classes.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from keras import ops

from nepa_keras.data.bad_images import BadImages
from nepa_keras.data.decode import ImageError
from nepa_keras.data.segmentation import PairSource, fitting_size
from nepa_keras.data.transforms.resample import resize, scale, sides
from nepa_keras.evaluation.segmentation import SegmentationReport, SegmentationScores
from nepa_keras.layers.convolutions import resize as resize_logits
from nepa_keras.segmenter import NepaImageSegmenter


class ImageSegmenter:
    """A segmenter for uint8 images of any size (SPEC section 6, test).

    An image is brought to fit `fit`, looked at as a whole or through windows whose logits are averaged where
    they overlap; logits are brought to the original size before anything is decided. Of several scales and
    flips the probabilities are averaged.

    Args:
        segmenter: a `NepaImageSegmenter`.
        fit: bounds of the longer and the shorter side, such as (2048, 512); None keeps the size.
        window: side or (height, width) of the windows, or None for the whole. Images that are larger share a
            compilation.
        stride: from one window to the next, down and to the right; default two thirds of the window. The
            last is shifted back inside.
        scales: factors on `fit`, or on the size.
        flip: whether to look at the mirrored image too.
        batch_size: windows at a time.

    Raises:
        ValueError: a stride that leaves gaps or has no window, no scales, or `fit` in another order.
    """

    def __init__(
        self,
        segmenter: NepaImageSegmenter,
        fit: tuple[int, int] | None = None,
        window: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        batch_size: int = 4,
    ):
        if fit is not None and not 0 < min(fit[1], fit[0]) == fit[1]:
            raise ValueError(
                f"fit={tuple(fit)} must be a longer and a shorter side, such as 2048, 512."
            )
        if window is None and stride is not None:
            raise ValueError(f"A stride of {stride} needs a window.")
        steps = None
        if window is not None:
            steps = sides(stride) if stride else tuple(max(s * 2 // 3, 1) for s in sides(window))
            if not all(0 < step <= side for step, side in zip(steps, sides(window), strict=True)):
                raise ValueError(f"A stride of {stride} leaves gaps between windows of {window}.")
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales={tuple(scales)} must be factors above 0.")
        self.segmenter, self.fit = segmenter, fit
        self.window = None if window is None else sides(window)
        self.stride = steps
        self.scales, self.flip, self.batch_size = tuple(scales), flip, batch_size

    def labels(self, image: np.ndarray) -> np.ndarray:
        """The most likely class of each pixel, (H, W) uint8 or int32, of uint8 (H, W, channels)."""
        kind = np.uint8 if self.segmenter.num_classes <= 256 else np.int32
        return self.scores(image).argmax(axis=-1).astype(kind)

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Logits (H, W, K) of uint8 (H, W, channels); of several looks the mean of the probabilities."""
        looks = list(product(self.scales, (False, True) if self.flip else (False,)))
        if len(looks) == 1:
            return self._look(image, *looks[0])
        total = _softmax(self._look(image, *looks[0]))
        for look in looks[1:]:
            total += _softmax(self._look(image, *look))
        return total / len(looks)

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
        """Logits of a batch; padded here as the segmenter would, so that fewer sizes are compiled."""
        height, width = pixels.shape[1:3]
        patch = self.segmenter.backbone.patch_size
        pixels = np.pad(pixels, [(0, 0), (0, -height % patch), (0, -width % patch), (0, 0)])
        logits = ops.convert_to_numpy(self.segmenter.predict_on_batch(pixels))
        return logits[:, :height, :width]

    def _windows(self, pixels: np.ndarray) -> np.ndarray:
        """Logits (H, W, K) averaged over the windows that see a pixel."""
        assert self.window is not None and self.stride is not None
        height, width, _ = pixels.shape
        size = (min(self.window[0], height), min(self.window[1], width))
        places = [
            (slice(top, top + size[0]), slice(left, left + size[1]))
            for top in window_starts(height, size[0], self.stride[0])
            for left in window_starts(width, size[1], self.stride[1])
        ]
        total = np.zeros((height, width, self.segmenter.num_classes), "float32")
        count = np.zeros((height, width, 1), "float32")
        for first in range(0, len(places), self.batch_size):
            some = places[first : first + self.batch_size]
            batch = np.zeros((self.batch_size, *size, pixels.shape[-1]), "float32")
            for row, place in zip(batch, some, strict=False):
                row[...] = pixels[place]
            for logits, place in zip(self._whole(batch), some, strict=False):
                total[place] += logits
                count[place] += 1
        return total / count


def segmentation_scores(
    segment: ImageSegmenter, source: PairSource, bad_images: BadImages, count: int | None = None
) -> SegmentationReport:
    """Scores of the images of a source, one by one.

    Args:
        source: pairs of as many classes and channels as the segmenter.
        bad_images: account of those that are left out because they cannot be read.
        count: only so many of them, the first.

    Raises:
        BadImagesError: more are bad than it allows.
    """
    scores = SegmentationScores(source.num_classes)
    for index in range(min(len(source), count or len(source))):
        try:
            pair = source.read(index)
        except ImageError as error:
            bad_images.add(index, source.name(index), str(error))
            continue
        scores.update(pair[..., -1], segment.labels(pair[..., :-1]))
    return scores.report()


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover a length; the last ends with it."""
    starts = list(range(0, max(length - window, 0), stride))
    return [*starts, max(length - window, 0)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
