"""Use the layers in your own Keras model: blocks with rotary positions, trained on scans of digits.

    KERAS_BACKEND=jax python examples/layers_in_your_own_model.py

The script prints the accuracy on test digits.
"""

import argparse

import keras
from keras import ops

import nepa_keras
from nepa_keras.layers import LayerNorm, PatchEmbedding, RotaryEmbedding, TransformerBlock


@keras.saving.register_keras_serializable(package="my_project")
class Digits(keras.Model):
    """Classifier: patches -> blocks with 2-D rotary positions -> mean of the patches -> logits (B, 10).

    A block is an ordinary Keras layer. In addition to the tokens (B, N, D) it takes the tables of
    `RotaryEmbedding`, which are computed once and passed to every block.
    """

    def __init__(self, width: int = 64, num_blocks: int = 2, num_heads: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.width, self.num_blocks, self.num_heads = width, num_blocks, num_heads
        self.patches = PatchEmbedding(width, patch_size=2)  # CLS is the first token
        self.rotary = RotaryEmbedding(head_dim=width // num_heads, dtype="float32", rescale=None)
        self.blocks = [
            TransformerBlock(num_heads, 4 * width, layer_scale=None, drop_path=0.1 * i)
            for i in range(num_blocks)
        ]
        self.norm = LayerNorm()
        self.head = keras.layers.Dense(10)

    def build(self, input_shape):
        self.patches.build(input_shape)
        tokens = self.patches.compute_output_shape(input_shape)
        for layer in (*self.blocks, self.norm):
            layer.build(tokens)
        self.head.build((None, self.width))
        self.built = True

    def call(self, images, training=False):
        x = self.patches(images)  # (B, N, D)
        tables = self.rotary(grid=self.patches.grid(images.shape), training=training)
        for block in self.blocks:
            x = block(x, rope=tables, causal=False, training=training)
        return self.head(ops.mean(self.norm(x)[:, 1:], axis=1))

    def get_config(self):
        sizes = {name: getattr(self, name) for name in ("width", "num_blocks", "num_heads")}
        return {**super().get_config(), **sizes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12, help="length of the training in epochs")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    digits = nepa_keras.data.load("digits")
    train = nepa_keras.data.normalize(digits.train_images)  # (B, 8, 8, 1) in [-1, 1]
    test = nepa_keras.data.normalize(digits.test_images)

    model = Digits()
    model.compile(
        optimizer=keras.optimizers.AdamW(3e-3, weight_decay=0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(train, digits.train_labels, batch_size=64, epochs=options.epochs, verbose=2)
    scores = model.evaluate(test, digits.test_labels, verbose=0, return_dict=True)
    print(f"{model.count_params():,} parameters, {len(train)} training images")
    print(f"accuracy on {len(test)} test images: {100 * scores['accuracy']:.1f} %")


if __name__ == "__main__":
    main()
