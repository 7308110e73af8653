"""Initialiser and dense layer shared by all parts of the Transformer."""

import random

import keras
import numpy as np
from keras import ops

from nepa_keras import backends


@keras.saving.register_keras_serializable(package="nepa_keras")
class NormalInitializer(keras.initializers.Initializer):
    """Normal(0, stddev) drawn by NumPy, so that a seed gives the same weights on every backend.

    The reference cuts the normal at +-2 *absolute*, a hundred standard deviations away: no draw
    ever reaches the cut, so there is none here. Without a seed one is taken from Python's
    generator, which `keras.utils.set_random_seed` seeds.
    """

    def __init__(self, stddev: float = 0.02, seed: int | None = None):
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape, dtype=None):
        seed = random.getrandbits(32) if self.seed is None else self.seed
        values = np.random.default_rng(seed).standard_normal(shape, dtype="float32") * self.stddev
        return ops.convert_to_tensor(values.astype("float32"), dtype=dtype)

    def get_config(self):
        return {"stddev": self.stddev, "seed": self.seed}


@keras.saving.register_keras_serializable(package="nepa_keras")
class Linear(keras.layers.Layer):
    """`x @ kernel + bias` over the last axis: (..., D) -> (..., units).

    Args:
        units: width of the output.
        use_bias: whether there is a bias.
        kernel_initializer: default normal, standard deviation 0.02.

    Example:
        >>> Linear(8)(keras.ops.ones((2, 5, 4))).shape
        (2, 5, 8)
    """

    def __init__(self, units: int, use_bias: bool = True, kernel_initializer=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer or NormalInitializer())

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units),
            initializer=self.kernel_initializer,
            name="kernel",
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x):
        dtype = self.compute_dtype
        return backends.linear(
            ops.cast(x, dtype),
            ops.cast(self.kernel, dtype),
            None if self.bias is None else ops.cast(self.bias, dtype),
        )

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
