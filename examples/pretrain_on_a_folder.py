"""Pretrain on a folder of pictures: read, augment, fit, save, and see what the model expects.

    KERAS_BACKEND=jax python examples/pretrain_on_a_folder.py --pictures=/path/to/pictures

Without --pictures it writes 600 small pictures of clothes into a temporary folder and reads those.
"""

import argparse
import tempfile
from pathlib import Path

import keras
from PIL import Image

import nepa_keras
from nepa_keras import data, training, visualization


def write_pictures(folder: Path, count: int = 600) -> None:
    """Some of the images that ship with the library, as PNG files."""
    folder.mkdir(parents=True)
    for i, image in enumerate(data.load("embedded").train_images[:count]):
        Image.fromarray(image[..., 0]).save(folder / f"{i:04}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", help="a folder with pictures at any depth")
    parser.add_argument("--output", help="a folder for the model; default a temporary one")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    output = Path(options.output or tempfile.mkdtemp(prefix="nepa_keras-"))
    if not options.pictures:
        options.pictures = output / "pictures"
        write_pictures(options.pictures)

    # Random crops, mirrored or not, in [-1, 1]. Files are read by threads while the model trains, and a file
    # that is no picture is replaced and counted.
    source = data.open_source(f"folder:{options.pictures}")
    batches = data.AugmentedBatches(source, batch_size=50, image_size=28, channels=1)
    print(f"{len(source)} pictures, {len(batches)} batches an epoch")

    # A small Vision Transformer for 28x28 grey pictures, in 16 patches. `PRESETS` has larger ones, and for
    # pictures of 224x224 with colours: image_size=224, channels=3, "nepa_small_patch14_224".
    keras.utils.set_random_seed(0)
    backbone = nepa_keras.NepaBackbone.from_preset("nepa_micro_patch7_28", load_weights=False)
    model = nepa_keras.NepaPretrainer(backbone)
    rates = training.WarmupCosine(2e-3, total_steps=options.epochs * len(batches))
    model.compile(optimizer=training.adamw(rates, ema_decay=0.98))
    history = model.fit(
        batches.endless(),
        steps_per_epoch=len(batches),
        epochs=options.epochs,
        shuffle=False,  # the batches are, already
        verbose=0,
    )
    for name in ("loss", "target_spread"):
        values = history.history[name]
        print(f"{name}: {values[0]:.3f} after the first epoch, {values[-1]:.3f} after the last")
    print("A spread near 0 would be a collapse: all embeddings in one direction.")

    with training.ema_weights(
        model
    ):  # the average over the last steps, which is better than the last
        model.save_to_preset(output / "model")
        pictures = data.NepaImageConverter(28, channels=1)(data.image_files(options.pictures)[:4])
        visualization.plot_similarity(model, pictures, output / "similarity.png")

    again = nepa_keras.NepaImageClassifier.from_preset(output / "model", num_classes=10)
    print(f"a classifier to fine-tune from it has {again.count_params():,} parameters")
    print(f"model: {output / 'model'}\npicture: {output / 'similarity.png'}")


if __name__ == "__main__":
    main()
