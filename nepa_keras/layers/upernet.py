"""Heads for dense prediction: feature pyramid from one scale, UPerNet (arXiv 1807.10221), FCN.

B images, h x w cells, D width, C classes.
"""

from collections.abc import Sequence

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.layers.convolutions import (
    ConvNorm,
    Upsample2x,
    average_pool,
    batch_norm,
    channel_dropout,
    classifier,
    resize,
)
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class FeaturePyramid(keras.layers.Layer):
    """Rescale four maps of one scale to a pyramid: by 4, 2, 1 and 1/2, as in BEiT's segmentation code.

    By 4: two transposed convolutions with BatchNorm and GELU between them; by 2: one; by 1: identity; by 1/2:
    max-pooling.

    Args:
        width: D.

    Call arguments:
        maps: four maps (B, h, w, D).

    Returns:
        (B, 4h, 4w, D), (B, 2h, 2w, D), (B, h, w, D), (B, h // 2, w // 2, D).

    Example:
        >>> maps = 4 * [np.ones((1, 8, 8, 4))]
        >>> [tuple(x.shape) for x in FeaturePyramid(width=4)(maps)]
        [(1, 32, 32, 4), (1, 16, 16, 4), (1, 8, 8, 4), (1, 4, 4, 4)]
    """

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        policy = self.dtype_policy

        self.first = Upsample2x(width, name="quadruple_first", dtype=policy)
        self.norm = batch_norm("quadruple_norm", policy)
        self.second = Upsample2x(width, name="quadruple_second", dtype=policy)
        self.only = Upsample2x(width, name="double", dtype=policy)

    def build(self, input_shape: Sequence[Shape]) -> None:
        shape = (None, None, None, self.width)
        for layer in (self.first, self.norm, self.second, self.only):
            layer.build(shape)

    def call(self, maps: Sequence[Tensor], training: bool = False) -> list[Tensor]:
        quadruple, double, same, half = maps
        quadruple = self.norm(self.first(quadruple), training=training)
        quadruple = self.second(backends.gelu(quadruple))
        # A grid of one patch cannot be halved.
        window = (min(2, half.shape[1]), min(2, half.shape[2]))
        half = ops.max_pool(half, window, window, padding="valid", data_format="channels_last")
        return [quadruple, self.only(double), same, half]

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> list[Shape]:
        scales = (4, 2, 1, 0.5)
        return [
            (shape[0], *(side and int(side * scale) for side in shape[1:3]), self.width)
            for shape, scale in zip(input_shape, scales, strict=True)
        ]

    def get_config(self) -> dict:
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="nepa_keras")
class UPerNetHead(keras.layers.Layer):
    """UPerNet: pyramid pooling on the smallest map, top-down fusion, convolution over all scales.

    Args:
        num_classes: C.
        channels: width of all convolutions.
        pool_bins: sides of the grids that the smallest map is pooled to.
        dropout: dropout rate of whole channels before the last convolution.

    Call arguments:
        maps: maps from the largest to the smallest, of any widths, such as those of `FeaturePyramid`.

    Returns:
        Logits (B, h, w, C) on the grid of the largest map.

    Example:
        >>> maps = [np.ones((1, side, side, 4)) for side in (16, 8, 4, 2)]
        >>> tuple(UPerNetHead(num_classes=10, channels=8)(maps).shape)
        (1, 16, 16, 10)
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 512,
        pool_bins: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.channels = channels
        self.pool_bins = tuple(pool_bins)
        self.dropout = dropout

    def build(self, input_shape: Sequence[Shape]) -> None:
        policy, c = self.dtype_policy, self.channels
        *larger, smallest = [(None, None, None, shape[-1]) for shape in input_shape]

        def conv(name, shape, kernel_size=1):
            layer = ConvNorm(c, kernel_size, name=name, dtype=policy)
            layer.build(shape)
            return layer

        inner = (None, None, None, c)
        self.pooled = [conv(f"pool_{bins}", smallest) for bins in self.pool_bins]
        together = (None, None, None, smallest[-1] + c * len(self.pool_bins))
        self.bottleneck = conv("bottleneck", together, 3)
        self.lateral = [conv(f"lateral_{i}", shape) for i, shape in enumerate(larger)]
        self.output_convs = [conv(f"output_{i}", inner, 3) for i in range(len(larger))]
        self.fuse = conv("fuse", (None, None, None, c * (len(larger) + 1)), 3)
        self.drop = channel_dropout(self.dropout, policy)
        self.classifier = classifier(self.num_classes, c, policy)

    def call(self, maps: Sequence[Tensor], training: bool = False) -> Tensor:
        *larger, smallest = maps
        size = smallest.shape[1:3]
        pooled = [smallest]
        for bins, conv in zip(self.pool_bins, self.pooled, strict=True):
            mean = average_pool(smallest, bins)
            pooled.append(resize(conv(mean, training=training), size))
        x = self.bottleneck(ops.concatenate(pooled, axis=-1), training=training)
        merged = [x]
        for map_, lateral in zip(reversed(larger), reversed(self.lateral), strict=True):
            x = lateral(map_, training=training) + resize(x, map_.shape[1:3])
            merged.insert(0, x)
        *merged, top = merged
        outputs = [
            conv(x, training=training) for x, conv in zip(merged, self.output_convs, strict=True)
        ]
        size = maps[0].shape[1:3]
        outputs = [resize(x, size) for x in (*outputs, top)]
        x = self.fuse(ops.concatenate(outputs, axis=-1), training=training)
        return self.classifier(self.drop(x, training=training))

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return (*input_shape[0][:-1], self.num_classes)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "channels": self.channels,
            "pool_bins": self.pool_bins,
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable(package="nepa_keras")
class FCNHead(keras.layers.Layer):
    """A 3x3 convolution and a 1x1 classifier: (B, h, w, D) -> logits (B, h, w, C).

    Args:
        num_classes: C.
        channels: width of the convolution.
        dropout: dropout rate of whole channels before the classifier.

    Example:
        >>> tuple(FCNHead(num_classes=10, channels=8)(np.ones((1, 7, 7, 4))).shape)
        (1, 7, 7, 10)
    """

    def __init__(self, num_classes: int, channels: int = 256, dropout: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.channels = channels
        self.dropout = dropout
        self.conv = ConvNorm(channels, 3, name="conv", dtype=self.dtype_policy)
        self.drop = channel_dropout(dropout, self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        self.conv.build(input_shape)
        self.classifier = classifier(self.num_classes, self.channels, self.dtype_policy)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        x = self.conv(x, training=training)
        return self.classifier(self.drop(x, training=training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.num_classes)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "channels": self.channels,
            "dropout": self.dropout,
        }
