"""Pretrain on a folder of pictures: read, augment, fit, save, and draw the model's predictions.

    KERAS_BACKEND=jax python examples/pretrain_on_a_folder.py --pictures=/path/to/pictures

Without --pictures the script writes 600 small pictures of clothes to a temporary folder and uses those. It
prints the loss and the paths of the saved model and of a picture of its predictions.
"""

import argparse
import tempfile
from pathlib import Path

import keras
from PIL import Image

import nepa_keras
from nepa_keras import data, training, visualization


def write_pictures(folder: Path, count: int = 600) -> None:
    """Write some of the images that ship with the library as PNG files."""
    folder.mkdir(parents=True)
    for i, image in enumerate(data.load("embedded").train_images[:count]):
        Image.fromarray(image[..., 0]).save(folder / f"{i:04}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", help="folder with pictures at any depth")
    parser.add_argument("--output", help="folder for the model; default a temporary one")
    parser.add_argument("--epochs", type=int, default=10, help="length of the training in epochs")
    options = parser.parse_args()
    output = Path(options.output or tempfile.mkdtemp(prefix="nepa_keras-"))
    if not options.pictures:
        options.pictures = output / "pictures"
        write_pictures(options.pictures)

    # Batches of random crops, randomly flipped, in [-1, 1]. Threads read the files while the model trains. A
    # file that is no readable picture is replaced by another one and counted.
    source = data.open_source(f"folder:{options.pictures}")
    batches = data.AugmentedBatches(source, batch_size=50, image_size=28, channels=1)
    print(f"{len(source)} pictures, {len(batches)} batches per epoch")

    # A small Vision Transformer for grey pictures of 28x28 pixels in 16 patches. `PRESETS` lists larger ones;
    # for colour pictures of 224x224 use image_size=224, channels=3 and "nepa_small_patch14_224".
    keras.utils.set_random_seed(0)
    backbone = nepa_keras.NepaBackbone.from_preset("nepa_micro_patch7_28", load_weights=False)
    model = nepa_keras.NepaPretrainer(backbone)
    rates = training.WarmupCosine(2e-3, total_steps=options.epochs * len(batches))
    model.compile(optimizer=training.adamw(rates, ema_decay=0.98))
    history = model.fit(
        batches.endless(),
        steps_per_epoch=len(batches),
        epochs=options.epochs,
        shuffle=False,  # the batches are shuffled already
        verbose=0,
    )
    for name in ("loss", "target_spread"):
        values = history.history[name]
        print(f"{name}: {values[0]:.3f} after the first epoch, {values[-1]:.3f} after the last")
    print("A target_spread near 0 would mean collapse: all embeddings point in one direction.")

    with training.ema_weights(
        model
    ):  # weights averaged over the last steps, which are better than those of the last step
        model.save_to_preset(output / "model")
        pictures = data.NepaImageConverter(28, channels=1)(data.image_files(options.pictures)[:4])
        visualization.plot_similarity(model, pictures, output / "similarity.png")

    again = nepa_keras.NepaImageClassifier.from_preset(output / "model", num_classes=10)
    print(f"a classifier built on it for fine-tuning has {again.count_params():,} parameters")
    print(f"model: {output / 'model'}\npicture: {output / 'similarity.png'}")


if __name__ == "__main__":
    main()
