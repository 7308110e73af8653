"""Train a semantic segmentation model by compile and fit, score it, and draw its predictions.

    KERAS_BACKEND=jax python examples/segment_scenes.py

The synthetic scenes are composed of images that ship with the library, with their true masks. The script
prints mean IoU and pixel accuracy before and after training. The backbone here starts from random weights;
`NepaImageSegmenter.from_preset(folder, num_classes=…)` starts from a pretrained one. experiments/segment.py
has the full recipe, for ADE20K and for your own pictures and masks.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np

import nepa_keras
from nepa_keras import data, evaluation, training, visualization
from nepa_keras.data import segmentation

GROUPS = {
    "tops": ("T-shirt/top", "pullover", "dress", "coat", "shirt"),
    "trousers": ("trouser",),
    "shoes": ("sandal", "sneaker", "ankle boot"),
    "bags": ("bag",),
}


class Clothes(segmentation.Scenes):
    """Scenes of two to four clothes on a grey canvas of 56x56 pixels, in four classes and background.

    A source of images and masks is a class with `pair(index)`, `__len__` and `name(index)`; this one inherits
    them and merges the classes into four groups. Training and test scenes show different clothes.
    """

    def __init__(self, split: str, count: int):
        super().__init__("embedded", split, count)
        group_of = {name: i for i, names in enumerate(GROUPS.values(), 1) for name in names}
        self.group = np.array([0, *(group_of[name] for name in self.class_names[1:])], "uint8")
        self.class_names = ("background", *GROUPS)

    def pair(self, index):
        image, labels = super().pair(index)
        return image, self.group[labels]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=240, help="length of the training in updates")
    parser.add_argument("--output", help="folder for the picture; default a temporary one")
    options = parser.parse_args()
    output = Path(options.output or tempfile.mkdtemp(prefix="nepa_keras-"))
    output.mkdir(parents=True, exist_ok=True)

    train, test = Clothes("train", 2000), Clothes("test", 100)
    # Image and mask are resized, cropped and flipped together.
    transform = segmentation.SegmentationTransform(ratios=(0.8, 1.25), photometric=False)
    batches = segmentation.SegmentationBatches(train, 16, 56, transform=transform)

    keras.utils.set_random_seed(0)
    backbone = nepa_keras.NepaBackbone(
        image_shape=(56, 56, 1),
        patch_size=7,
        hidden_dim=48,
        num_layers=2,
        num_heads=4,
        mlp_dim=96,
        layer_scale=0.1,
    )
    segmenter = nepa_keras.NepaImageSegmenter(
        backbone,
        num_classes=train.num_classes,
        class_names=train.class_names,
        channels=16,
    )
    segmenter.compile(optimizer=training.adamw(training.WarmupCosine(5e-3, options.steps, 0.1)))

    segment = evaluation.ImageSegmenter(
        segmenter
    )  # maps uint8 images of any size to class numbers for each pixel
    bad = data.BadImages(len(test))
    before = evaluation.segmentation_scores(segment, test, bad)
    history = segmenter.fit(
        batches.endless(), steps_per_epoch=options.steps // 4, epochs=4, shuffle=False, verbose=0
    )
    after = evaluation.segmentation_scores(segment, test, bad)

    losses = ", ".join(f"{loss:.2f}" for loss in history.history["loss"])
    print(f"loss in the four quarters of {options.steps} steps: {losses}")
    print(f"mean IoU on {len(test)} scenes: {100 * before.miou:.1f} -> {100 * after.miou:.1f} %")
    print(f"pixel accuracy: {100 * before.aacc:.1f} -> {100 * after.aacc:.1f} %")

    pairs = [test.pair(i) for i in range(4)]
    images, truths = zip(*pairs, strict=True)
    predicted = [segment.labels(image) for image in images]
    names = test.class_names
    visualization.plot_segmentation(images, truths, predicted, names, output / "scenes.png")
    print(f"picture: {output / 'scenes.png'}")


if __name__ == "__main__":
    main()
