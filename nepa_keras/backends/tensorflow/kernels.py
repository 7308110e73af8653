"""TensorFlow: attention by explicit scores, all fused by XLA."""

import tensorflow as tf

from nepa_keras.backends.portable import gelu_of

# By erf, as ONNX has no erfc, which Keras' own uses.
gelu = gelu_of(lambda x: 0.5 + 0.5 * tf.math.erf(x * 0.5**0.5))


def barrier(x):
    return x
