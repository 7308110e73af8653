"""Two-dimensional rotary position embedding (RoPE) on relative patch coordinates (SPEC section 2).

B batch, H heads, T patches (CLS excluded), K head width.
"""

import math

import keras
import numpy as np
from keras import ops


def patch_coordinates(grid_h: int, grid_w: int) -> np.ndarray:
    """Centres of the patches, row-major, in [-1, 1]: (T, 2) as (y, x)."""
    y = (np.arange(grid_h) + 0.5) / grid_h * 2.0 - 1.0
    x = (np.arange(grid_w) + 0.5) / grid_w * 2.0 - 1.0
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def frequencies(head_dim: int, theta: float = 100.0) -> np.ndarray:
    """w_m = theta^(-4m/K) for m < K/4.

    Raises:
        ValueError: `head_dim` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f"2-D RoPE needs a head width that is a multiple of 4, got {head_dim}; change "
            "hidden_dim or num_heads."
        )
    return theta ** (-4.0 * np.arange(head_dim // 4) / head_dim)


def rope_tables(coordinates, head_dim: int, theta: float = 100.0):
    """cos and sin tables (T, K), float32, of coordinates (T, 2); columns [y.., x.., y.., x..]."""
    coordinates = ops.convert_to_tensor(coordinates, dtype="float32")
    scaled = ops.convert_to_tensor(2.0 * math.pi * frequencies(head_dim, theta), dtype="float32")
    angles = coordinates[:, :, None] * scaled[None, None, :]  # (T, 2, K/4)
    angles = ops.reshape(angles, (coordinates.shape[0], head_dim // 2))
    angles = ops.concatenate([angles, angles], axis=-1)  # (T, K)
    return ops.cos(angles), ops.sin(angles)


@keras.saving.register_keras_serializable(package="nepa_keras")
class RotaryEmbedding(keras.layers.Layer):
    """The cos/sin tables of a grid, with an unrotated first row for CLS: two (1 + T, K) float32.

    In training all coordinates may be shifted (uniform +-shift, per axis), jittered (log-uniform,
    per axis) and rescaled (log-uniform in [1/rescale, rescale], one factor), in this order, drawn
    once per forward pass.

    Args:
        head_dim: head width K, a multiple of 4.
        theta: base of the frequencies.
        rescale, jitter: largest factor, >= 1, or None for off.
        shift: largest shift, or None for off.
        seed: of the draws.
    """

    def __init__(
        self,
        head_dim: int,
        theta: float = 100.0,
        rescale: float | None = 2.0,
        shift: float | None = None,
        jitter: float | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, factor in (("rescale", rescale), ("jitter", jitter)):
            if factor is not None and factor < 1.0:
                raise ValueError(
                    f"RoPE {name} is the largest factor and must be >= 1, got {factor}."
                )
        frequencies(head_dim, theta)
        self.head_dim = head_dim
        self.theta = theta
        self.rescale = rescale
        self.shift = shift
        self.jitter = jitter
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def _uniform(self, shape, limit):
        return keras.random.uniform(shape, -limit, limit, dtype="float32", seed=self.seed_generator)

    def coordinates(self, grid_h: int, grid_w: int, training: bool = False):
        """Patch coordinates (T, 2), changed by the random draws when training."""
        coordinates = ops.convert_to_tensor(patch_coordinates(grid_h, grid_w), dtype="float32")
        if training and self.shift:
            coordinates = coordinates + self._uniform((1, 2), self.shift)
        if training and self.jitter and self.jitter > 1.0:
            coordinates = coordinates * ops.exp(self._uniform((1, 2), math.log(self.jitter)))
        if training and self.rescale and self.rescale > 1.0:
            coordinates = coordinates * ops.exp(self._uniform((1, 1), math.log(self.rescale)))
        return coordinates

    def call(self, grid_h: int, grid_w: int, training: bool = False):
        coordinates = self.coordinates(grid_h, grid_w, training)
        cos, sin = rope_tables(coordinates, self.head_dim, self.theta)
        cls = ops.zeros((1, self.head_dim), dtype="float32")
        return ops.concatenate([cls + 1.0, cos]), ops.concatenate([cls, sin])

    def get_config(self):
        return {
            **super().get_config(),
            "head_dim": self.head_dim,
            "theta": self.theta,
            "rescale": self.rescale,
            "shift": self.shift,
            "jitter": self.jitter,
            "seed": self.seed,
        }
