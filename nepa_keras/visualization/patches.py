"""Patches of images: their grid, their pixels, and how they are drawn.

B images, T patches on a grid of rows x columns.
"""

import keras
import numpy as np
from keras import ops

from nepa_keras.presets import backbone_of
from nepa_keras.types import Tensor
from nepa_keras.vectors import unit


def patch_grid(backbone: keras.Model, images: np.ndarray) -> tuple[int, int]:
    """Rows and columns of patches of images (B, height, width, channels).

    Raises:
        ValueError: the images do not fit, or the backbone is not one of images.
    """
    grid = backbone.patch_embedding.grid(np.shape(images))
    if len(grid) != 2:
        raise ValueError(f"Pictures are of two axes; this model's tokens lie on {len(grid)}.")
    return grid


def own_mask(model: keras.Model) -> bool:
    """Whether a model reads causally; a classifier's choice is not that of its backbone."""
    return getattr(model, "use_causal_mask", backbone_of(model).use_causal_mask)


def displayable(images: np.ndarray) -> np.ndarray:
    """Normalised images (..., channels) in [-1, 1] as floats in [0, 1] with one or three channels."""
    pictures = np.clip(np.asarray(images, "float32") * 0.5 + 0.5, 0.0, 1.0)
    # Of any other number than three the first channel stands for all.
    return pictures if pictures.shape[-1] == 3 else pictures[..., :1]


def cut_patches(images: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(B, height, width, C) -> (B, T, height / rows, width / columns, C)."""
    batch, height, width, channels = images.shape
    rows, columns = grid
    high, wide = height // rows, width // columns
    x = images.reshape(batch, rows, high, columns, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * columns, high, wide, channels)


def join_patches(patches: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The inverse of `cut_patches`."""
    batch, _, high, wide, channels = patches.shape
    rows, columns = grid
    x = patches.reshape(batch, rows, columns, high, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * high, columns * wide, channels)


def predictions_and_targets(
    model: keras.Model, images: np.ndarray, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """What the model expects at each patch when all before it are known, and the embeddings there.

    Args:
        model: a `NepaPretrainer`, or its backbone; it reads causally.
        images: (B, height, width, channels), normalised floats.

    Returns:
        Two of (B, T, D) float32.
    """
    backbone = backbone_of(model)
    shift = getattr(model, "shift", True)
    predictions, targets = [], []
    for start in range(0, len(images), batch_size):
        part = np.asarray(images[start : start + batch_size], "float32")
        out = backbone(part, training=False, causal=True)
        said = ops.convert_to_numpy(ops.cast(out["sequence_output"], "float32"))
        predictions.append(said[:, :-1] if shift else said[:, 1:])
        targets.append(ops.convert_to_numpy(ops.cast(out["embeddings"], "float32"))[:, 1:])
    return np.concatenate(predictions), np.concatenate(targets)


def unit_tokens(tokens: Tensor) -> np.ndarray:
    """Tokens of any backend as vectors of length 1 over the last axis, float32."""
    return unit(ops.convert_to_numpy(ops.cast(tokens, "float32")))


def draw_picture(axes, picture: np.ndarray, grid: tuple[int, int] | None = None) -> None:
    """Draws one `displayable` image without axes; with a grid, one patch is one unit."""
    extent = None
    if grid is not None:
        extent = (-0.5, grid[1] - 0.5, grid[0] - 0.5, -0.5)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")
    axes.set_box_aspect(picture.shape[0] / picture.shape[1])
    axes.set_axis_off()


def draw_map(axes, weights: np.ndarray, **style):
    """Draws a map (rows, columns), masked cells in light grey; returns matplotlib's image."""
    import matplotlib

    rows, columns = weights.shape
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    colors = matplotlib.colormaps[style.pop("cmap", "viridis")].with_extremes(bad="#e6e8eb")
    shown = axes.imshow(weights, cmap=colors, extent=extent, aspect="auto", **style)
    axes.set_box_aspect(rows / columns)
    axes.set_axis_off()
    return shown


def outline(axes, patch: int, columns: int, **style) -> None:
    """A frame around a patch, counted row by row from 0, on axes where one patch is one unit."""
    from matplotlib.patches import Rectangle

    row, column = divmod(int(patch), columns)
    corner = (column - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, **{"linewidth": 1.6, **style}))
