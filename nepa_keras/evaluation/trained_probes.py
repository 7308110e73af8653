"""Probes trained by gradient descent on features computed once: linear, and attentive over patches."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from nepa_keras.training import WarmupCosine
from nepa_keras.types import Shape, Tensor

EPOCHS = 90  # of MAE's linear probe
_WARMUP = 0.1  # fraction of the steps, similar to MAE's 10 of 90 epochs


@keras.saving.register_keras_serializable(package="nepa_keras")
class AttentivePool(keras.layers.Layer):
    """Attention pooling with one learned query: softmax(q k^T / sqrt(D / H)) v, (B, T, D) -> (B, D).

    Args:
        num_heads: H.

    Raises:
        ValueError: `num_heads` does not divide D.

    Example:
        >>> patches = evaluation.extract_features(backbone, images, pool="patches")
        >>> tuple(evaluation.AttentivePool(num_heads=4)(patches).shape)
        (16, 32)
    """

    def __init__(self, num_heads: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide the width {width}.")
        self.query = self.add_weight(
            shape=(1, 1, width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="query",
        )
        self.attention = keras.layers.MultiHeadAttention(self.num_heads, width // self.num_heads)
        self.attention.build((None, 1, width), input_shape)

    def call(self, tokens: Tensor) -> Tensor:
        query = ops.broadcast_to(self.query, (ops.shape(tokens)[0], 1, self.query.shape[-1]))
        return self.attention(query, tokens, key=tokens)[:, 0]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], input_shape[-1]

    def get_config(self) -> dict:
        return {**super().get_config(), "num_heads": self.num_heads}


def sgd_probe_accuracy(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    epochs: int = EPOCHS,
    batch_size: int = 256,
    base_learning_rate: float = 0.1,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> float:
    """Test accuracy of MAE's linear probe (arXiv 2111.06377, table 10): BatchNorm without scale, then linear.

    SGD with momentum 0.9, no weight decay, learning rate base * batch / 256, warm-up and cosine schedule.
    Differences from MAE: momentum SGD instead of LARS, which batches of this size do not need, and no
    augmentation, as the features are computed once.

    Args:
        train_x, train_y: features (B, D), or (B, T, D) for an attentive probe, and class numbers (B,).
        test_x, test_y: the same of the test images.
        epochs, batch_size, base_learning_rate: training hyper-parameters.
        seed: seed of the weights and of the order of images.
        callbacks: Keras callbacks of the training, such as one that reports epochs.

    Returns:
        The accuracy after the last epoch, in [0, 1]; the test images influence nothing.
    """
    keras.utils.set_random_seed(seed)
    # BatchNorm normalises the scale except for its epsilon, and outputs of early blocks can be far below it.
    scale = np.float32(1 / max(float(train_x.std()), 1e-12))
    train_x, test_x = train_x * scale, test_x * scale
    classes = int(max(train_y.max(), test_y.max())) + 1
    attentive = train_x.ndim == 3
    model = keras.Sequential(
        [
            keras.Input(train_x.shape[1:]),
            *([AttentivePool(), keras.layers.LayerNormalization()] if attentive else []),
            keras.layers.BatchNormalization(center=False, scale=False, epsilon=1e-6),
            keras.layers.Dense(
                classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01)
            ),
        ]
    )
    batch_size = min(batch_size, len(train_x))
    steps = epochs * -(-len(train_x) // batch_size)
    rate = WarmupCosine(base_learning_rate * batch_size / 256, steps, _WARMUP)
    model.compile(
        optimizer=keras.optimizers.SGD(rate, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        train_x,
        train_y,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=list(callbacks),
    )
    logits = model.predict(test_x, batch_size=batch_size, verbose=0)
    return float((logits.argmax(axis=1) == test_y).mean())
