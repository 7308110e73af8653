"""Any sequence of embeddings: features of a CNN on a 2-D grid, tubes of a video on a 3-D grid.

    KERAS_BACKEND=jax python examples/your_own_tokenizer.py

An embedding is a Keras layer that makes (batch, *grid, width) of a batch. It goes where the patch embedding
was; the objective, the positions (an axis of the grid each) and everything after it stay as they are.
spoken_words.py does the same on a 1-D grid, with real measurements of what it is worth.
"""

import argparse

import keras
import numpy as np

import nepa_keras
from nepa_keras import data, training

WIDTH = 48


def features_of_a_cnn():
    """Clothes as a frozen CNN sees them: 28x28 pixels -> 7x7 cells of 16 channels -> one linear layer."""
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

    # Strides as large as kernels: a cell sees its own pixels. One that also saw the next cell's would know a
    # part of the answer. Frozen, or the features would follow the objective to what is easy to predict.
    cnn.trainable = False
    # Channels of mean 0: what all cells share would make every embedding point in one direction.
    centred = keras.layers.Normalization(axis=-1)
    centred.adapt(cnn.predict(images, verbose=0))
    return images, keras.Sequential([cnn, centred, keras.layers.Dense(WIDTH)], name="tokens")


def tubes_of_a_video(count: int = 1200):
    """Digits that move: 8 frames of 12x12 pixels -> 4x3x3 tubes, each 2 frames of 4x4 pixels."""
    digits, draw = data.load("digits").train_images / 255.0, np.random.default_rng(0)
    videos = np.zeros((count, 8, 12, 12, 1), "float32")
    for video in videos:
        digit, place, speed = draw.choice(digits), draw.integers(0, 5, 2), draw.integers(-1, 2, 2)
        for frame in video:
            frame[place[0] : place[0] + 8, place[1] : place[1] + 8] = digit
            speed = np.where(
                (place + speed < 0) | (place + speed > 4), -speed, speed
            )  # off the wall
            place = place + speed
    videos -= videos.mean()
    return videos, keras.layers.Conv3D(WIDTH, (2, 4, 4), strides=(2, 4, 4), name="tubes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
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

        # The best that a constant can do is the mean direction of the targets.
        targets = model.predict(test, batch_size=50, verbose=0)["targets"]  # (N, T, D)
        targets /= np.linalg.norm(targets, axis=-1, keepdims=True)
        constant = -np.linalg.norm(targets.mean(axis=(0, 1)))
        loss = model.evaluate(test, batch_size=50, verbose=0)["loss"]
        print(f"  tokens of one input: {targets.shape[1]}")
        print(f"  loss on others: {loss:.3f}; of the mean embedding: {constant:.3f}")


if __name__ == "__main__":
    main()
