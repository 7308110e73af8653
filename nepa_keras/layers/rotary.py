"""Rotary position embedding (RoPE) on relative coordinates of a grid with n axes.

An image has two axes, a signal one, a video three. T grid cells (CLS excluded), N = 1 + T tokens, K head
width, n axes.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from nepa_keras.types import Shape, Tensor


def grid_coordinates(grid: Sequence[int]) -> np.ndarray:
    """Centres of grid cells in [-1, 1], row-major: (T, n), for an image (y, x)."""
    axes = [(np.arange(size) + 0.5) / size * 2.0 - 1.0 for size in grid]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(grid))


def _coordinates_in_graph(grid):
    """Compute `grid_coordinates` for sizes known only at run time; float32."""
    sizes = [ops.cast(size, "float32") for size in grid]
    axes = [(ops.arange(size, dtype="float32") + 0.5) / size * 2.0 - 1.0 for size in sizes]
    return ops.reshape(ops.stack(ops.meshgrid(*axes, indexing="ij"), axis=-1), (-1, len(grid)))


def frequencies(head_dim: int, theta: float = 100.0, axes: int = 2) -> np.ndarray:
    """Return w_m = theta^(-2nm/K) for m < K/2n, the same for each of the n axes.

    With three axes the head width may leave a remainder, which is not rotated.

    Raises:
        ValueError: `head_dim` is not a multiple of 2n for one or two axes; for more, it is odd or below 2n.
    """
    if head_dim % (2 * axes if axes <= 2 else 2) or head_dim < 2 * axes:
        needed = f"a multiple of {2 * axes}" if axes <= 2 else f"even and at least {2 * axes}"
        raise ValueError(
            f"{axes}-D RoPE needs a head width that is {needed}, got {head_dim}; change "
            "hidden_dim or num_heads."
        )
    return theta ** (-2.0 * axes * np.arange(head_dim // (2 * axes)) / head_dim)


def rope_tables(coordinates: Tensor, head_dim: int, theta: float = 100.0) -> tuple[Tensor, Tensor]:
    """Return cos and sin, (T, K) float32, for coordinates (T, n); columns [y.., x.., y.., x..] for n = 2."""
    coordinates = ops.convert_to_tensor(coordinates, dtype="float32")
    axes = coordinates.shape[1]
    scaled = 2.0 * math.pi * frequencies(head_dim, theta, axes)
    scaled = ops.convert_to_tensor(scaled, dtype="float32")
    angles = coordinates[:, :, None] * scaled[None, None, :]  # (T, n, K/2n)
    angles = ops.reshape(angles, (-1, axes * scaled.shape[0]))
    angles = ops.pad(angles, ((0, 0), (0, head_dim // 2 - angles.shape[1])))
    angles = ops.concatenate([angles, angles], axis=-1)  # (T, K)
    return ops.cos(angles), ops.sin(angles)


@keras.saving.register_keras_serializable(package="nepa_keras")
class RotaryEmbedding(keras.layers.Layer):
    """Cos and sin tables of RoPE for a grid, with an unrotated first row for CLS.

    In training the coordinates may be shifted (uniform +-shift, per axis), jittered (log-uniform, per axis)
    and rescaled (log-uniform in [1/rescale, rescale], one factor), in this order, by random draws that all
    tokens of a forward pass share.

    Args:
        head_dim: head width K, a multiple of 4 for two axes; see `frequencies`.
        theta: base of the frequencies.
        rescale, jitter: largest factor, >= 1; None to disable.
        shift: largest shift; None to disable.
        extent: coordinates lie in [-extent, extent]. With the paper's value 1 the fastest pair turns twice
            along an axis, which distinguishes 16 patches; a signal of hundreds of steps needs more.
        axes: number of axes n, for the check of the head width.
        seed: seed of the random draws.

    Call arguments:
        grid: cells along each axis, such as (rows, columns) of patches.

    Returns:
        (cos, sin), float32, each of N rows and K columns.

    Example:
        >>> cos, sin = RotaryEmbedding(head_dim=16)(grid=(7, 7))
        >>> tuple(cos.shape)
        (50, 16)
    """

    def __init__(
        self,
        head_dim: int,
        theta: float = 100.0,
        rescale: float | None = 2.0,
        shift: float | None = None,
        jitter: float | None = None,
        extent: float = 1.0,
        axes: int = 2,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, factor in (("rescale", rescale), ("jitter", jitter)):
            if factor is not None and factor < 1.0:
                raise ValueError(
                    f"RoPE {name} is the largest factor and must be >= 1, got {factor}."
                )
        if extent <= 0.0:
            raise ValueError(f"RoPE extent must be above 0, got {extent}.")
        frequencies(head_dim, theta, axes)
        self.head_dim = head_dim
        self.theta = theta
        self.rescale = rescale
        self.shift = shift
        self.jitter = jitter
        self.extent = extent
        self.axes = axes
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def _uniform(self, shape, limit):
        return keras.random.uniform(shape, -limit, limit, dtype="float32", seed=self.seed_generator)

    def coordinates(self, grid: Sequence[int], training: bool = False) -> Tensor:
        """Coordinates (T, n) of the cells; with random shift, jitter and rescale in training."""
        known = all(isinstance(size, int) for size in grid)
        found = grid_coordinates(grid) if known else _coordinates_in_graph(grid)
        coordinates = ops.convert_to_tensor(self.extent * found, dtype="float32")
        if training and self.shift:
            coordinates = coordinates + self._uniform((1, len(grid)), self.shift)
        if training and self.jitter and self.jitter > 1.0:
            factors = ops.exp(self._uniform((1, len(grid)), math.log(self.jitter)))
            coordinates = coordinates * factors
        if training and self.rescale and self.rescale > 1.0:
            coordinates = coordinates * ops.exp(self._uniform((1, 1), math.log(self.rescale)))
        return coordinates

    def call(self, grid: Sequence[int], training: bool = False) -> tuple[Tensor, Tensor]:
        coordinates = self.coordinates(grid, training)
        cos, sin = rope_tables(coordinates, self.head_dim, self.theta)
        cls = ops.zeros((1, self.head_dim), dtype="float32")
        return ops.concatenate([cls + 1.0, cos]), ops.concatenate([cls, sin])

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        table = (1 + math.prod(input_shape), self.head_dim)
        return table, table

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "head_dim": self.head_dim,
            "theta": self.theta,
            "rescale": self.rescale,
            "shift": self.shift,
            "jitter": self.jitter,
            "extent": self.extent,
            "axes": self.axes,
            "seed": self.seed,
        }
