"""Segmentation of images of any size: as a whole or by sliding windows, at several scales, flipped."""

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
    """Segment uint8 images of any size, as the paper's evaluation does.

    The image is resized to fit `fit` and segmented as a whole, or in windows whose logits are averaged where
    they overlap. Logits are resized to the original size before the class is chosen. With several scales or
    a flip the probabilities are averaged.

    Args:
        segmenter: a `NepaImageSegmenter`.
        fit: bounds of the longer and the shorter side in pixels, such as (2048, 512); None keeps the size.
        window: side or (height, width) of the windows in pixels; None for the whole image. All images larger
            than the window share one compiled program.
        stride: distance between windows, one number or (down, right); default two thirds of the window. The
            last window is moved back inside the image.
        scales: factors on `fit`, or on the size of the image.
        flip: whether to segment the mirrored image too.
        batch_size: windows per forward pass.

    Raises:
        ValueError: the stride leaves gaps or is given without a window, there are no scales, or `fit` has
            the shorter side first.

    Example:
        >>> segment = evaluation.ImageSegmenter(segmenter, window=28)
        >>> segment.labels(np.zeros((40, 60, 1), "uint8")).shape
        (40, 60)
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
            raise ValueError(f"A stride of {stride} needs a window; give one, or no stride.")
        steps = None
        if window is not None:
            steps = sides(stride) if stride else tuple(max(s * 2 // 3, 1) for s in sides(window))
            if not all(0 < step <= side for step, side in zip(steps, sides(window), strict=True)):
                raise ValueError(
                    f"A stride of {stride} leaves gaps between windows of {window}; it must be at most "
                    "the window."
                )
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales={tuple(scales)} must be factors above 0.")
        self.segmenter, self.fit = segmenter, fit
        self.window = None if window is None else sides(window)
        self.stride = steps
        self.scales, self.flip, self.batch_size = tuple(scales), flip, batch_size

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Most likely class of each pixel, (height, width), of a uint8 image (height, width, channels)."""
        kind = np.uint8 if self.segmenter.num_classes <= 256 else np.int32
        return self.scores(image).argmax(axis=-1).astype(kind)

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Logits (height, width, C) of a uint8 image (height, width, channels).

        With several scales or a flip these are the mean probabilities.
        """
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
        """Logits of a batch, padded to whole patches here, so that fewer sizes are compiled."""
        height, width = pixels.shape[1:3]
        patch = self.segmenter.backbone.patch_size
        pixels = np.pad(pixels, [(0, 0), (0, -height % patch), (0, -width % patch), (0, 0)])
        logits = ops.convert_to_numpy(self.segmenter.predict_on_batch(pixels))
        return logits[:, :height, :width]

    def _windows(self, pixels: np.ndarray) -> np.ndarray:
        """Logits (height, width, C), averaged over the windows that contain each pixel."""
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
    """Segmentation metrics of the images of a source.

    Args:
        segment: segmenter of images of any size.
        source: images and masks with the classes and channels of the segmenter.
        bad_images: collects the images that cannot be read, which are left out.
        count: number of images, from the first on; None for all.

    Raises:
        BadImagesError: more images are bad than `bad_images` allows.
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
    """Starts of windows that cover a length; the last window ends at its end."""
    starts = list(range(0, max(length - window, 0), stride))
    return [*starts, max(length - window, 0)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
