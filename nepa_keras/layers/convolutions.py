"""Building blocks of dense-prediction heads: convolution with BatchNorm, upsampling, resizing, pooling.

B images, h x w cells, D width, C channels. As in mmsegmentation, no convolution before a BatchNorm has a
bias, and convolutions before a ReLU are initialised by Normal(0, sqrt(2 / fan-out)).
"""

import math

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.layers.linear import NormalInitializer
from nepa_keras.types import Shape, Tensor


class _BatchNorm(keras.layers.BatchNormalization):
    """BatchNorm with statistics over the images of all devices, on each backend."""

    def _moments(self, inputs, mask):
        if backends.replicas() == 1:
            return super()._moments(inputs, mask)
        mean = backends.mean_over_all(inputs, self._reduction_axes)
        return mean, backends.mean_over_all(ops.square(inputs - mean), self._reduction_axes)


def batch_norm(name: str, dtype: keras.DTypePolicy) -> keras.layers.BatchNormalization:
    """Create a BatchNorm with PyTorch's default momentum and epsilon."""
    return _BatchNorm(momentum=0.9, epsilon=1e-5, name=name, dtype=dtype)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly with half-pixel centres and without antialias, (B, h, w, C) -> (B, *size, C)."""
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    # In float32: TensorFlow's gradient does not compile in lower precision.
    larger = ops.image.resize(
        ops.cast(x, "float32"), size, interpolation="bilinear", data_format="channels_last"
    )
    return ops.cast(larger, x.dtype)


def average_pool(x: Tensor, bins: int) -> Tensor:
    """Average over a grid of bins, which may overlap: (B, h, w, C) -> (B, bins, bins, C).

    Bin i of n pixels covers floor(i n / bins) to ceil((i + 1) n / bins). So n may be smaller than bins, for
    which Keras' adaptive pooling fails on TensorFlow.
    """
    rows, columns = (_bin_matrix(n, bins) for n in x.shape[1:3])
    x = ops.einsum("ph,bhwc->bpwc", ops.convert_to_tensor(rows, x.dtype), x)
    return ops.einsum("qw,bpwc->bpqc", ops.convert_to_tensor(columns, x.dtype), x)


def _bin_matrix(n: int, bins: int) -> np.ndarray:
    matrix = np.zeros((bins, n), "float32")
    for i in range(bins):
        first, last = i * n // bins, -((i + 1) * n // -bins)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


@keras.saving.register_keras_serializable(package="nepa_keras")
class ConvNorm(keras.layers.Layer):
    """Convolution, BatchNorm, ReLU: (B, h, w, any) -> (B, h, w, filters).

    Args:
        filters: output channels.
        kernel_size: side of the kernel.

    Example:
        >>> tuple(ConvNorm(filters=4, kernel_size=3)(np.ones((1, 7, 7, 2))).shape)
        (1, 7, 7, 4)
    """

    def __init__(self, filters: int, kernel_size: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.conv = keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            use_bias=False,
            kernel_initializer=NormalInitializer(math.sqrt(2 / (kernel_size**2 * filters))),
            data_format="channels_last",
            name="conv",
            dtype=self.dtype_policy,
        )
        self.norm = batch_norm("norm", self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        self.conv.build(input_shape)
        self.norm.build((*input_shape[:-1], self.filters))

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        return ops.relu(self.norm(self.conv(x), training=training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
        }


@keras.saving.register_keras_serializable(package="nepa_keras")
class Upsample2x(keras.layers.Layer):
    """Transposed 2x2 convolution with stride 2: (B, h, w, D) -> (B, 2h, 2w, filters).

    Computed as one matrix product, as each cell makes four pixels independently; XLA's transposed convolution
    is several times slower on CPU, where it would dominate the time of a segmenter.

    Args:
        filters: output channels.

    Example:
        >>> tuple(Upsample2x(filters=4)(np.ones((1, 7, 7, 2))).shape)
        (1, 14, 14, 4)
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1]
        # Fan-in D: each output pixel is a sum over the D values of one cell.
        self.kernel = self.add_weight(
            (width, 2, 2, self.filters),
            NormalInitializer(1 / math.sqrt(width)),
            name="kernel",
        )
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, x: Tensor) -> Tensor:
        height, width, depth = x.shape[1:]
        pixels = backends.linear(x, ops.reshape(self.kernel, (depth, -1)))
        pixels = ops.reshape(pixels, (-1, height, width, 2, 2, self.filters)) + self.bias
        pixels = ops.transpose(pixels, (0, 1, 3, 2, 4, 5))
        return ops.reshape(pixels, (-1, 2 * height, 2 * width, self.filters))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        return (batch, 2 * height, 2 * width, self.filters)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters}


def channel_dropout(rate: float, dtype: keras.DTypePolicy) -> keras.layers.SpatialDropout2D:
    """Create a dropout of whole channels for (B, height, width, channels)."""
    return keras.layers.SpatialDropout2D(
        rate, data_format="channels_last", name="dropout", dtype=dtype
    )


def classifier(
    num_classes: int, channels: int, dtype: keras.DTypePolicy, name: str = "classifier"
) -> keras.layers.Conv2D:
    """Create a built 1x1 convolution, initialised by Normal(0, 0.01)."""
    layer = keras.layers.Conv2D(
        num_classes,
        1,
        kernel_initializer=NormalInitializer(0.01),
        data_format="channels_last",
        name=name,
        dtype=dtype,
    )
    layer.build((None, None, None, channels))
    return layer


# The class name in files saved before 0.2.
keras.saving.get_custom_objects()["nepa_keras>Doubling"] = Upsample2x
