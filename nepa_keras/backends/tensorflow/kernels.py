"""TensorFlow: computations of the layers; attention by explicit scores, fused by XLA."""

import tensorflow as tf

from nepa_keras.backends import portable

# erf, because ONNX has no erfc, which Keras' gelu uses.
gelu = portable.gelu_of(lambda x: 0.5 + 0.5 * tf.math.erf(x * 0.5**0.5))


def platform() -> str:
    """Platform of the first device that TensorFlow uses: "cpu", "gpu" or "tpu"."""
    found = [kind for kind in ("TPU", "GPU") if tf.config.list_physical_devices(kind)]
    return [*found, "CPU"][0].lower()


def linear(x, kernel, bias=None):
    if platform() == "cpu":
        return portable.linear_of_rows(x, kernel, bias)
    y = tf.einsum("...d,de->...e", x, kernel)  # `tf.matmul` would reshape to two axes
    return y if bias is None else y + bias


def rotated_norm(x, cos, sin, epsilon):
    wide = portable.layer_norm(tf.cast(x, "float32"), None, None, epsilon)
    return portable.rotate(wide, cos, sin)


def attention(q, k, v, scale, causal, bound=None):
    blocks = portable.blocks_of_queries(q.shape[1], causal, platform())
    return portable.explicit_attention(q, k, v, scale, causal, blocks)


def attention_form(length, width, dtype, causal):
    return portable.explicit_form(length, causal, platform())


def optimization_barrier(x):
    return x
