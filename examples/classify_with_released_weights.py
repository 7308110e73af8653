r"""Classify pictures with released weights.

    KERAS_BACKEND=jax python examples/classify_with_released_weights.py \
        nepa_base_patch14_224_sft cat.jpg dog.png

The first argument is a preset's name or hf://owner/name, which are downloaded once (needs `huggingface_hub`
and a network, 350 MB), or a folder written by `save_to_preset` or in the authors' layout. The script prints
the three most likely classes of each picture. Without arguments it trains a tiny classifier for a few
seconds, saves it in the authors' layout in a temporary folder, and uses it in the same way.
"""

import argparse
import tempfile
from pathlib import Path

import keras
from PIL import Image

import nepa_keras
from nepa_keras import data


def stand_in(folder: Path) -> list[Path]:
    """Train and save a tiny classifier of clothes in the authors' layout; return paths of pictures for it."""
    clothes = data.load("embedded")
    keras.utils.set_random_seed(0)
    backbone = nepa_keras.NepaBackbone.from_preset(
        "nepa_micro_patch7_28", load_weights=False, use_causal_mask=False
    )
    classifier = nepa_keras.NepaImageClassifier(backbone, 10, class_names=clothes.class_names)
    classifier.compile(
        optimizer=nepa_keras.training.adamw(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images, labels = data.normalize(clothes.train_images[:3000]), clothes.train_labels[:3000]
    classifier.fit(images, labels, batch_size=50, epochs=2, verbose=0)
    nepa_keras.interop.export_huggingface(classifier, folder / "official")

    pictures = []
    for image, label in zip(clothes.test_images[:4], clothes.test_labels[:4], strict=True):
        name = clothes.class_names[label].replace("/", " or ")
        pictures.append(folder / f"{len(pictures)} {name}.png")
        Image.fromarray(image[..., 0]).save(pictures[-1])
    return pictures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="preset's name, hf://owner/name or folder")
    parser.add_argument("pictures", nargs="*", help="picture files to classify")
    options = parser.parse_args()
    if options.model is None:
        folder = Path(tempfile.mkdtemp(prefix="nepa_keras-"))
        options.model, options.pictures = folder / "official", stand_in(folder)
    elif not options.pictures:
        parser.error("give one or more picture files after the model.")

    # The converter resizes, crops and normalises by the checkpoint's preprocessor_config.json.
    classifier = nepa_keras.NepaImageClassifier.from_preset(options.model)
    converter = nepa_keras.NepaImageConverter.from_preset(options.model)
    print(f"{classifier.count_params():,} parameters, {classifier.num_classes} classes")

    logits = classifier.predict(converter(options.pictures), verbose=0)  # (B, C)
    for picture, best in zip(
        options.pictures, classifier.decode_predictions(logits, 3), strict=True
    ):
        print(f"{Path(picture).name}: {', '.join(f'{name} {100 * p:.0f} %' for name, p in best)}")


if __name__ == "__main__":
    main()
