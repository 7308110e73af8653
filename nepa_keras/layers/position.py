"""Learned position embeddings: one vector for CLS and one per grid cell, resized for other grids.

B images, T grid cells (patches), N = 1 + T tokens, D width.
"""

import contextlib
import math
import operator
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from nepa_keras.layers.linear import NormalInitializer
from nepa_keras.resampling import resize_grid
from nepa_keras.types import Shape, Tensor


def _as_number(size: Any) -> Any:
    """Return the number in a tensor of known value, as in PyTorch's ONNX trace; else the argument."""
    if ops.is_tensor(size):
        with contextlib.suppress(TypeError):  # the value is not known while the graph is made
            return operator.index(size)
    return size


@keras.saving.register_keras_serializable(package="nepa_keras")
class PositionEmbedding(keras.layers.Layer):
    """Add a learned vector to each token by its position, as in a plain ViT (arXiv 2010.11929).

    For another grid the cell vectors are resized, bicubic with antialias (`resize_grid`); the CLS vector is
    not.

    Args:
        grid: cells along each axis of the table, such as (rows, columns) of patches.

    Call arguments:
        x: (B, tokens, D), CLS and the first cells of a grid, row by row.
        grid: cells along each axis of that grid; default the layer's own.

    Returns:
        (B, tokens, D).

    Raises:
        ValueError: a grid has a side below 1; in `call`, the grid has another number of axes or unknown
            sides, or there are more tokens than the grid has.

    Example:
        >>> positions = PositionEmbedding((16, 16))
        >>> tuple(positions(np.ones((2, 257, 64))).shape)
        (2, 257, 64)
        >>> tuple(positions(np.ones((2, 1 + 8 * 12, 64)), grid=(8, 12)).shape)
        (2, 97, 64)
    """

    def __init__(self, grid: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        if not self.grid or not all(isinstance(size, int) and size > 0 for size in self.grid):
            raise ValueError(
                f"PositionEmbedding needs the number of cells along each axis, got {self.grid}; give whole "
                "numbers of at least 1."
            )

    def build(self, input_shape: Shape) -> None:
        self.vectors = self.add_weight(
            shape=(1, 1 + math.prod(self.grid), input_shape[-1]),
            initializer=NormalInitializer(),
            name="vectors",
            autocast=False,
        )

    def table(self, grid: Sequence[int] | None = None) -> Tensor:
        """Return the vectors (1, N, D) of CLS and of a grid, row by row; default the layer's own grid."""
        vectors = ops.convert_to_tensor(self.vectors)
        if grid is None:
            return vectors
        if len(grid) != len(self.grid):
            raise ValueError(
                f"The positions have a grid of {self.grid} cells, but the inputs have one of {tuple(grid)}, "
                "with another number of axes; build the model for such inputs."
            )
        grid = [_as_number(size) for size in grid]
        if not all(isinstance(size, int) for size in grid):
            raise ValueError(
                "Learned positions need the size of the inputs when a graph is traced, but it is unknown; "
                "give it, as in keras.Input((224, 224, 3)), or use rotary positions alone "
                "(position_embedding=None)."
            )
        if tuple(grid) == self.grid:
            return vectors
        cells = resize_grid(vectors[0, 1:], self.grid, grid, ops)
        return ops.concatenate([vectors[:, :1], ops.cast(cells, vectors.dtype)[None]], axis=1)

    def call(self, x: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        table = self.table(grid)
        tokens = x.shape[1]
        if tokens is not None and tokens > table.shape[1]:
            raise ValueError(
                f"There are {tokens} tokens, but a grid of {tuple(grid or self.grid)} cells has "
                f"{table.shape[1]} with CLS; pass the grid of these tokens."
            )
        return x + ops.cast(table[:, : ops.shape(x)[1]], x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def compute_output_spec(self, x: Tensor, **kwargs) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid}
