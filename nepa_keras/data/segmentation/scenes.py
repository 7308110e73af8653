"""Synthetic scenes with masks that need no download: clothes or digits placed on a canvas."""

import numpy as np

from nepa_keras.data.arrays import load
from nepa_keras.data.segmentation.pairs import PairSource

SPLITS = ("train", "test", "val")
_FOREGROUND = 25  # of 255; darker pixels of an item are background


class Scenes(PairSource):
    """Grey scenes of items of Fashion-MNIST or digits: class 0 is the background, i + 1 the item class i.

    A scene is determined by (data, split, seed, index). Later items cover earlier ones; a pixel belongs to
    the last item that is not dark there. The background is a grey gradient with noise.

    Args:
        data: "embedded" (clothes) or "digits".
        split: "train" or "test", from which the items are taken; "val" places those of "train" differently.
        count: number of scenes.
        size: side of the canvas in pixels; default twice that of the items.
        things: smallest and largest number of items on a canvas.
        seed: seed of everything random.

    Raises:
        ValueError: the data set or the split does not exist, or the canvas is smaller than an item.

    Example:
        >>> scenes = segmentation.Scenes(count=8)
        >>> image, labels = scenes.pair(0)
        >>> image.shape, labels.shape, scenes.class_names[0]
        ((56, 56, 1), (56, 56), 'background')
    """

    def __init__(
        self,
        data: str = "embedded",
        split: str = "train",
        count: int = 1000,
        size: int | None = None,
        things: tuple[int, int] = (2, 4),
        seed: int = 0,
    ):
        held = load(data)
        if split not in SPLITS:
            raise ValueError(f"Scenes have the splits {', '.join(SPLITS)}, not {split!r}.")
        things_of = "test" if split == "test" else "train"
        super().__init__(("background", *held.class_names), channels=1)
        self.images = getattr(held, f"{things_of}_images")[..., 0]
        self.classes = getattr(held, f"{things_of}_labels")
        self.size = size or 2 * self.images.shape[1]
        if self.size < self.images.shape[1]:
            raise ValueError(
                f"A canvas of {self.size} pixels is smaller than an item ({self.images.shape[1]} pixels)."
            )
        self.count, self.things = count, things
        self.seed = [seed, SPLITS.index(split)]

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"scene {index}"

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        draw, n = np.random.default_rng([*self.seed, index]), self.size
        slope = draw.uniform(-30, 30, 2)
        ramp = np.linspace(-0.5, 0.5, n)
        canvas = draw.uniform(20, 90) + slope[0] * ramp[:, None] + slope[1] * ramp
        canvas = np.clip(canvas + draw.normal(0, 8, (n, n)), 0, 255).astype(np.uint8)
        labels = np.zeros((n, n), np.uint8)
        for _ in range(draw.integers(self.things[0], self.things[1] + 1)):
            which = draw.integers(len(self.images))
            thing = self.images[which]
            top, left = draw.integers(0, n - len(thing) + 1, 2)
            place = slice(top, top + len(thing)), slice(left, left + len(thing))
            seen = thing > _FOREGROUND
            canvas[place][seen] = thing[seen]
            labels[place][seen] = self.classes[which] + 1
        return canvas[..., None], labels
