"""A class for each pixel: train a segmenter by compile and fit, score it and look at it.

    KERAS_BACKEND=jax python examples/segment_scenes.py

Scenes are laid out of the images that ship with the library, with their true masks. `NepaImageSegmenter
.from_preset(folder, num_classes=…)` begins with a pretrained backbone in place of the fresh one here;
experiments/segment.py has the whole recipe, for ADE20K and for your own pictures and masks.
"""

import argparse
import tempfile
from pathlib import Path

import keras

import nepa_keras
from nepa_keras import data, evaluation, training, visualization
from nepa_keras.data import segmentation


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", help="a folder for the picture; default a temporary one")
    options = parser.parse_args()
    output = Path(options.output or tempfile.mkdtemp(prefix="nepa_keras-"))
    output.mkdir(parents=True, exist_ok=True)

    # One to three digits of 8x8 pixels on a canvas of 16x16. Test scenes show other digits.
    scenes = {
        split: segmentation.Scenes("digits", split, count, things=(1, 3))
        for split, count in (("train", 1000), ("test", 100))
    }
    # Image and mask are resized, cropped, mirrored together; digits are not mirrored.
    transform = segmentation.SegmentationTransform(ratios=(0.9, 1.1), flip=False, photometric=False)
    batches = segmentation.SegmentationBatches(scenes["train"], 16, 16, transform=transform)

    keras.utils.set_random_seed(0)
    backbone = nepa_keras.NepaBackbone(
        image_shape=(16, 16, 1),
        patch_size=2,
        hidden_dim=48,
        num_layers=4,
        num_heads=4,
        mlp_dim=96,
        layer_scale=0.1,
    )
    segmenter = nepa_keras.NepaImageSegmenter(
        backbone,
        num_classes=scenes["train"].num_classes,  # 10 digits and the background
        class_names=scenes["train"].class_names,
        channels=16,
    )
    segmenter.compile(optimizer=training.adamw(training.WarmupCosine(5e-3, options.steps, 0.1)))

    segment = evaluation.ImageSegmenter(
        segmenter
    )  # uint8 images of any size to labels of that size
    bad = data.BadImages(len(scenes["test"]))
    before = evaluation.segmentation_scores(segment, scenes["test"], bad)
    history = segmenter.fit(
        batches.endless(), steps_per_epoch=options.steps // 4, epochs=4, verbose=0
    )
    after = evaluation.segmentation_scores(segment, scenes["test"], bad)

    losses = ", ".join(f"{loss:.2f}" for loss in history.history["loss"])
    print(f"loss of the four quarters of {options.steps} steps: {losses}")
    print(
        f"mean IoU of {len(scenes['test'])} test scenes: {100 * before.miou:.1f} -> {100 * after.miou:.1f} %"
    )
    print(f"pixels that are right: {100 * before.aacc:.1f} -> {100 * after.aacc:.1f} %")

    pairs = [scenes["test"].pair(i) for i in range(4)]
    images, truths = zip(*pairs, strict=True)
    predicted = [segment.labels(image) for image in images]
    names = scenes["test"].class_names
    visualization.plot_segmentation(images, truths, predicted, names, output / "scenes.png")
    print(f"picture: {output / 'scenes.png'}")


if __name__ == "__main__":
    main()
