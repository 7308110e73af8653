"""Pretrain on your own tokens: features of a CNN on a 2-D grid, and tubes of a video on a 3-D grid.

    KERAS_BACKEND=jax python examples/your_own_tokenizer.py

The tokens come from any Keras layer that maps a batch to (B, *grid, D). It replaces the patch embedding; the
objective, the rotary positions (for each axis of the grid) and the blocks stay the same. For both kinds of
tokens the script prints the loss, next to that of a constant prediction. spoken_words.py does the same on a
1-D grid, with a measurement of the gain.
"""

import argparse

import keras
import numpy as np

import nepa_keras
from nepa_keras import data, training

WIDTH = 48


def features_of_a_cnn():
    """Features of clothes by a frozen CNN: 28x28 pixels -> 7x7 cells of 16 channels -> a linear layer."""
    clothes = data.load("embedded")
    cnn = keras.Sequential(
        [
            keras.layers.Input((28, 28, 1)),
            keras.layers.Conv2D(8, 2, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 2, strides=2, activation="relu"),
        ],
        name="cnn",
    )
    classifier = keras.Sequential([cnn, keras.layers.Flatten(), keras.layers.Dense(10)])
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = data.normalize(clothes.train_images[:1200]), clothes.train_labels[:1200]
    classifier.fit(images, labels, batch_size=50, epochs=2, verbose=0)

    # Strides equal to kernel sizes, so that a cell depends on its own pixels only; if it saw pixels of the
    # next cell, it would know a part of the answer. Frozen, as the objective would make the features easy to
    # predict.
    cnn.trainable = False
    # Channels of mean 0; a common offset would make all embeddings point in one direction.
    centred = keras.layers.Normalization(axis=-1)
    centred.adapt(cnn.predict(images, verbose=0))
    return images, keras.Sequential([cnn, centred, keras.layers.Dense(WIDTH)], name="tokens")


def tubes_of_a_video(count: int = 1200):
    """Videos of moving digits: 8 frames of 12x12 pixels -> 4x3x3 tubes of 2 frames of 4x4 pixels each."""
    digits, draw = data.load("digits").train_images / 255.0, np.random.default_rng(0)
    videos = np.zeros((count, 8, 12, 12, 1), "float32")
    for video in videos:
        digit, place, speed = draw.choice(digits), draw.integers(0, 5, 2), draw.integers(-1, 2, 2)
        for frame in video:
            frame[place[0] : place[0] + 8, place[1] : place[1] + 8] = digit
            speed = np.where(
                (place + speed < 0) | (place + speed > 4), -speed, speed
            )  # reflected at the walls
            place = place + speed
    videos -= videos.mean()
    return videos, keras.layers.Conv3D(WIDTH, (2, 4, 4), strides=(2, 4, 4), name="tubes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="length of each training in epochs")
    options = parser.parse_args()
    for make in (features_of_a_cnn, tubes_of_a_video):
        keras.utils.set_random_seed(0)
        inputs, embedding = make()
        train, test = inputs[:-200], inputs[-200:]
        backbone = nepa_keras.NepaBackbone(
            image_shape=inputs.shape[1:],
            embedding=embedding,
            hidden_dim=WIDTH,
            num_layers=2,
            num_heads=4,
            mlp_dim=2 * WIDTH,
            layer_scale=0.1,
        )
        model = nepa_keras.NepaPretrainer(backbone)
        rates = training.WarmupCosine(3e-3, options.epochs * -(-len(train) // 50), 0.1)
        model.compile(optimizer=training.adamw(rates))
        print(f"{make.__doc__.splitlines()[0]}")
        model.fit(train, batch_size=50, epochs=options.epochs, verbose=0)

        # The best constant prediction is the mean direction of the targets.
        targets = model.predict(test, batch_size=50, verbose=0)["targets"]  # (B, T, D)
        targets /= np.linalg.norm(targets, axis=-1, keepdims=True)
        constant = -np.linalg.norm(targets.mean(axis=(0, 1)))
        loss = model.evaluate(test, batch_size=50, verbose=0)["loss"]
        print(f"  tokens per input: {targets.shape[1]}")
        print(f"  loss on test inputs: {loss:.3f}; of the mean embedding: {constant:.3f}")


if __name__ == "__main__":
    main()
